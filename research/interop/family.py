"""What a family of foreign checkpoints has to say about itself; the families are in `families/`."""

import dataclasses
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import numpy as np
from flax import linen as nn

from research.interop.layouts import Row, Tensors
from research.interop.safetensors import Spec

Read = Callable[[str], np.ndarray]


def same_names(names: Iterable[str]) -> dict[str, str]:
    """Each name as it is."""
    return {name: name for name in names}


@dataclasses.dataclass(frozen=True)
class Family:
    """One layout of weights and config.

    fields       the fields of our model, of their config and the specs of their tensors; raises ValueError for what
                 our model cannot do
    config       their config, of our model; raises ValueError for what theirs cannot do
    table        the rows of a model of ours; rows of parameters that it does not have do no harm
    names        the names that the table uses -> the names in a file, which may be spelled in other ways
    unused       a regex: tensors that are known to have no use here
    fold         for export: reads our parameters of these paths as the layout can hold them
    settle       of our fields and their tensors: those fields that only values tell
    computed     of a model of ours: the tensors of theirs that it computes and has no parameter for
    sizes        of the specs of their tensors: those fields of their config that our model does not know
    left_out     a regex: parameters of ours that theirs does without
    """

    name: str
    model: type[nn.Module]
    experiment: str
    fields: Callable[[Mapping[str, Any], Mapping[str, Spec]], dict[str, Any]]
    config: Callable[[nn.Module], dict[str, Any]]
    table: Callable[[nn.Module], list[Row]]
    names: Callable[[Iterable[str]], dict[str, str]] = same_names
    unused: str = "(?!)"
    fold: Callable[[Read, Collection[str]], Read] = lambda read, paths: read
    settle: Callable[[Mapping[str, Any], Tensors], dict[str, Any]] = lambda fields, tensors: {}
    computed: Callable[[nn.Module], dict[str, np.ndarray]] = lambda model: {}
    sizes: Callable[[Mapping[str, Spec]], dict[str, Any]] = lambda specs: {}
    left_out: str = "(?!)"


def require(model: nn.Module, family: str, **fields: Any) -> None:
    """Raises ValueError unless the fields of our model have the values that a family always has."""
    for field, (*allowed,) in fields.items():
        if getattr(model, field) not in allowed:
            known = " or ".join(map(repr, allowed))
            raise ValueError(
                f"config.model.{field}={getattr(model, field)!r} cannot be exported: {family} has {known} only"
            )


def require_theirs(config: Mapping[str, Any], **fields: Any) -> None:
    """Raises ValueError unless the fields of their config, where they are given, have the values that ours can do."""
    for field, (*allowed,) in fields.items():
        if field in config and config[field] not in allowed:
            known = " or ".join(map(repr, allowed))
            raise ValueError(f"config.json has {field}={config[field]!r}, which is not supported; only {known} is")


def needed(config: Mapping[str, Any], *fields: str) -> list[Any]:
    """The values of fields that their config must have. Raises ValueError for one that is missing."""
    for field in fields:
        if field not in config:
            raise ValueError(f"config.json of a {config.get('model_type')!r} model lacks {field!r}")
    return [config[field] for field in fields]


def num_classes(config: Mapping[str, Any], specs: Mapping[str, Spec], head: str) -> int:
    """The classes of a classifier: the rows of its `head`; without one those that the config names, or 2."""
    if head in specs and specs[head].shape:
        return specs[head].shape[0]
    return len(config.get("id2label", ())) or config.get("num_labels", 2)


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
