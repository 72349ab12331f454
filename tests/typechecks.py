"""Checks of the shapes and dtypes that the library's functions are annotated with, while tests run."""

import inspect
import typing
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jaxtyping
import numpy as np
from beartype import BeartypeConf, BeartypeHintOverrides, beartype

ROOMS = ("research.metrics", "research.models", "research.tasks")
Function = TypeVar("Function", bound=Callable[..., Any])
_CONF = BeartypeConf(
    is_pep484_tower=True,  # an int may stand for a float, as for every other type checker
    # Tests may give NumPy's arrays and scalars where no shape is named, as in batches.
    hint_overrides=BeartypeHintOverrides({jax.Array: jax.Array | np.ndarray | np.generic}),
)


def install() -> None:
    """Makes imports of ROOMS put `checked` on each function; a name of an axis has one size within a call."""
    jaxtyping.install_import_hook(ROOMS, f"{__name__}.checked")


def checked(function: Function) -> Function:
    """The function, checked by beartype if it is annotated with a shape; the rest is left to Pyright."""
    signature = inspect.signature(function)
    hints = [signature.return_annotation, *(each.annotation for each in signature.parameters.values())]
    return beartype(conf=_CONF)(function) if any(map(_has_shape, hints)) else function


def _has_shape(hint: Any) -> bool:
    if isinstance(hint, type) and issubclass(hint, jaxtyping.AbstractArray):
        return True
    return any(map(_has_shape, typing.get_args(hint)))
