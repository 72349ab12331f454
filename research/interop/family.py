"""What a family of foreign checkpoints has to say about itself; the families are in `families/`."""

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
    """Each name as it is."""
    return {name: name for name in names}


@dataclasses.dataclass(frozen=True)
class Family(Generic[Model]):
    """One layout of weights and config.

    fields       the fields of our model, of their config and the specs of their tensors; raises ValueError for what
                 our model cannot do
    config       their config, of our model; raises ValueError for what theirs cannot do
    table        the rows of a model of ours; rows of parameters that it does not have do no harm
    names        of the specs in a file: the names that the table uses -> those there, which may be spelled otherwise
    unused       a regex: tensors that are known to have no use here
    fold         for export: reads our parameters of these paths as the layout can hold them
    settle       of our fields and their tensors: those fields that only values tell
    computed     of a model of ours: the tensors of theirs that it computes and has no parameter for
    sizes        of the specs of their tensors: those fields of their config that our model does not know
    left_out     a regex: parameters of ours that theirs does without
    of_tokens    the experiment of a model with logits of tokens, where that is another
    beside       of the folder of a checkpoint and our fields: those that files beside its config tell
    files        of a model of ours: the JSON files that belong beside its config, by their names
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
    """Raises ValueError unless the fields of our model have the values that a family always has."""
    for field, (*allowed,) in fields.items():
        value = models.value(model, field)
        if value not in allowed:
            known = " or ".join(map(repr, allowed))
            raise ValueError(f"config.model.{field}={value!r} cannot be exported: {family} has {known} only")


def require_theirs(config: Mapping[str, Any], **fields: Any) -> None:
    """Raises ValueError unless the fields of their config, where they are given, have the values that ours can do."""
    for field, (*allowed,) in fields.items():
        if field in config and config[field] not in allowed:
            known = " or ".join(map(repr, allowed))
            raise ValueError(
                f"config.json has {field}={reprlib.repr(config[field])}, which is not supported; only {known} is"
            )


MOST = 2**24  # of a size


def size(config: Mapping[str, Any], field: str, default: int | None = None, least: int = 1) -> int:
    """A whole number of their config. Raises ValueError for another, and for one that is missing and has no default."""
    value = config.get(field)
    value = default if value is None else value
    if value is None:
        raise ValueError(f"config.json of a {config.get('model_type')!r} model lacks {field!r}")
    if type(value) is not int or not least <= value <= MOST:
        raise ValueError(
            f"config.json has {field}={reprlib.repr(value)}, which is not supported; a whole number from {least} to "
            f"{MOST} is"
        )
    return value


def sizes(config: Mapping[str, Any], field: str) -> tuple[int, ...]:
    """A list of whole numbers of their config, of which there is at least one. Raises ValueError for another."""
    values = config.get(field)
    if values is None:
        raise ValueError(f"config.json of a {config.get('model_type')!r} model lacks {field!r}")
    if not isinstance(values, list) or not 1 <= len(values) <= 64:
        raise ValueError(f"config.json has {field}={reprlib.repr(values)}, which is not supported; a list of sizes is")
    return tuple(size({field: value}, field) for value in values)


def number(config: Mapping[str, Any], field: str, default: float, most: float = 1.0) -> float:
    """A number from 0 to `most` of their config. Raises ValueError for another."""
    value = config.get(field)
    value = default if value is None else value
    if type(value) not in (int, float) or not math.isfinite(value) or not 0 <= value <= most:
        raise ValueError(
            f"config.json has {field}={reprlib.repr(value)}, which is not supported; a number from 0 to {most:g} is"
        )
    return float(value)


def flag(config: Mapping[str, Any], field: str, default: bool) -> bool:
    """True or false in their config. Raises ValueError for another."""
    value = config.get(field)
    value = default if value is None else value
    if not isinstance(value, bool):
        raise ValueError(f"config.json has {field}={reprlib.repr(value)}, which is not supported; true or false is")
    return value


def num_classes(config: Mapping[str, Any], specs: Mapping[str, TensorSpec], head: str) -> int:
    """The classes of a classifier: the rows of its `head`; without one those that the config names, or 2.

    Raises ValueError for a classifier of several labels at once, or of numbers: ours knows one class an image.
    """
    require_theirs(config, problem_type=(None, "single_label_classification"))
    if head in specs and specs[head].shape:
        return specs[head].shape[0]
    names = config.get("id2label")
    return len(names) if isinstance(names, dict) and names else size(config, "num_labels", 2)


def labels(count: int) -> dict[str, Any]:
    """How their config states a number of classes."""
    names = {index: f"LABEL_{index}" for index in range(count)}
    return {"id2label": names, "label2id": {name: index for index, name in names.items()}}


def with_prefix(prefix: str, head: str) -> Callable[[Iterable[str]], dict[str, str]]:
    """For `Family.names`: a model that was saved without its head has names without the prefix."""

    def names(found):
        whole = re.compile(f"{prefix}|{head}")
        return {name if whole.match(name) else prefix + name: name for name in found}

    return names
