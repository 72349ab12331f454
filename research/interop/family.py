"""The interface of a family of foreign checkpoints; the families are in `families/`.

In this package, "ours" are the names and shapes of this library, "theirs" those of the other one.
"""

import dataclasses
import math
import re
import reprlib
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from flax import linen as nn

from research.interop import models
from research.interop.layouts import Row, TensorSource
from research.interop.safetensors import TensorSpec

Model = TypeVar("Model", bound=nn.Module)
Read = Callable[[str], np.ndarray]


def same_names(names: Iterable[str]) -> dict[str, str]:
    """The identity mapping of names, the default of `Family.names`."""
    return {name: name for name in names}


@dataclasses.dataclass(frozen=True)
class Family(Generic[Model]):
    """One layout of weights and config.

    name         the family's name, in most cases the `model_type` in config.json
    model        our class of models
    experiment   the experiment of an imported run
    fields       (their config, their tensor specs) -> the fields of our model; raises ValueError for a model that ours
                 cannot represent
    config       our model -> their config; raises ValueError for a model that theirs cannot represent
    table        our model -> rows that pair our parameters with their tensors; it may have rows that our model lacks
    names        the tensor specs of a file -> {name in the table: name in the file}
    unused       a regex of their tensors that are ignored
    fold         for export: wraps the function that reads our parameters, to fold those that theirs lacks into others
    settle       (our fields, their tensors) -> the fields that depend on the values of tensors
    computed     our model -> the tensors of theirs that ours computes and has no parameter for
    sizes        their tensor specs -> the fields of their config that our model does not have
    left_out     a regex of our parameters that theirs does not have
    of_tokens    the experiment of a model with a logit per token, if it differs from `experiment`
    beside       (the folder of a checkpoint, our fields) -> the fields given in files beside its config
    files        our model -> {name: content} of JSON files to be written beside its config
    """

    name: str
    model: type[Model]
    experiment: str
    fields: Callable[[Mapping[str, Any], Mapping[str, TensorSpec]], dict[str, Any]]
    config: Callable[[Model], dict[str, Any]]
    table: Callable[[Model], list[Row]]
    names: Callable[[Mapping[str, TensorSpec]], dict[str, str]] = same_names
    unused: str = "(?!)"
    fold: Callable[[Read, Collection[str]], Read] = lambda read, paths: read
    settle: Callable[[Mapping[str, Any], TensorSource], dict[str, Any]] = lambda fields, tensors: {}
    computed: Callable[[Model], dict[str, np.ndarray]] = lambda model: {}
    sizes: Callable[[Mapping[str, TensorSpec]], dict[str, Any]] = lambda specs: {}
    left_out: str = "(?!)"
    of_tokens: str = ""
    beside: Callable[[Path, Mapping[str, Any]], dict[str, Any]] = lambda folder, fields: {}
    files: Callable[[Model], dict[str, Any]] = lambda model: {}


def require(model: nn.Module, family: str, **fields: Any) -> None:
    """Raises ValueError unless the given fields of our model have one of the values that a family supports."""
    for field, (*allowed,) in fields.items():
        value = models.value(model, field)
        if value not in allowed:
            known = " or ".join(map(repr, allowed))
            raise ValueError(f"config.model.{field}={value!r} cannot be exported: {family} supports only {known}")


def require_theirs(config: Mapping[str, Any], **fields: Any) -> None:
    """Raises ValueError unless the given fields of their config, if present, have one of the values we support."""
    for field, (*allowed,) in fields.items():
        if field in config and config[field] not in allowed:
            known = " or ".join(map(repr, allowed))
            raise ValueError(
                f"config.json has {field}={reprlib.repr(config[field])}, which is not supported; it must be {known}"
            )


MOST = 2**24  # largest size accepted in a config


def size(config: Mapping[str, Any], field: str, default: int | None = None, least: int = 1) -> int:
    """An integer from `least` to MOST in their config. Raises ValueError otherwise, or if missing without default."""
    value = config.get(field)
    value = default if value is None else value
    if value is None:
        raise ValueError(f"config.json of a {config.get('model_type')!r} model lacks {field!r}")
    if type(value) is not int or not least <= value <= MOST:
        raise ValueError(
            f"config.json has {field}={reprlib.repr(value)}, which is not supported; it must be an integer from "
            f"{least} to {MOST}"
        )
    return value


def sizes(config: Mapping[str, Any], field: str) -> tuple[int, ...]:
    """A nonempty list of integers in their config. Raises ValueError otherwise."""
    values = config.get(field)
    if values is None:
        raise ValueError(f"config.json of a {config.get('model_type')!r} model lacks {field!r}")
    if not isinstance(values, list) or not 1 <= len(values) <= 64:
        raise ValueError(
            f"config.json has {field}={reprlib.repr(values)}, which is not supported; it must be a list of integers"
        )
    return tuple(size({field: value}, field) for value in values)


def number(config: Mapping[str, Any], field: str, default: float, most: float = 1.0) -> float:
    """A number from 0 to `most` in their config. Raises ValueError otherwise."""
    value = config.get(field)
    value = default if value is None else value
    if type(value) not in (int, float) or not math.isfinite(value) or not 0 <= value <= most:
        raise ValueError(
            f"config.json has {field}={reprlib.repr(value)}, which is not supported; it must be a number from 0 to "
            f"{most:g}"
        )
    return float(value)


def flag(config: Mapping[str, Any], field: str, default: bool) -> bool:
    """A boolean in their config. Raises ValueError otherwise."""
    value = config.get(field)
    value = default if value is None else value
    if not isinstance(value, bool):
        raise ValueError(
            f"config.json has {field}={reprlib.repr(value)}, which is not supported; it must be true or false"
        )
    return value


def num_classes(config: Mapping[str, Any], specs: Mapping[str, TensorSpec], head: str) -> int:
    """The number of classes of a classifier: the rows of its `head`; without one, as in the config, or 2.

    Raises ValueError for multi-label classification and regression, which are not supported.
    """
    require_theirs(config, problem_type=(None, "single_label_classification"))
    if head in specs and specs[head].shape:
        return specs[head].shape[0]
    names = config.get("id2label")
    return len(names) if isinstance(names, dict) and names else size(config, "num_labels", 2)


def labels(count: int) -> dict[str, Any]:
    """The fields of their config for `count` classes."""
    names = {index: f"LABEL_{index}" for index in range(count)}
    return {"id2label": names, "label2id": {name: index for index, name in names.items()}}


def with_prefix(prefix: str, head: str) -> Callable[[Iterable[str]], dict[str, str]]:
    """For `Family.names`: adds `prefix` if the file lacks it, as in models that were saved without their head."""

    def names(found):
        whole = re.compile(f"{prefix}|{head}")
        return {name if whole.match(name) else prefix + name: name for name in found}

    return names
