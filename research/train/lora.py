"""Low-rank adaptation (LoRA, Hu et al., 2022): two narrow trained matrices beside each of some frozen kernels."""

import re
from collections.abc import Mapping
from typing import Any

import jax
from flax import traverse_util

from research.models.dense import LORA_A, LORA_B
from research.parallel.sharding import Names, Table, logical_axes
from research.spec import Spec, checks, field

_KERNEL = "kernel"


class LoraSpec(Spec, tag="lora"):
    """Low-rank updates x A B of dense layers, A [inputs, rank] random and B [rank, features] zero at first.

    Their scale is 1: the paper's `alpha` is the rank here. All other parameters are frozen, see `train`.
    """

    rank: int = field(default=0, check=checks.between(0, 4096), doc="rank of an update; 0: off")
    kernels: tuple[str, ...] = field(
        default=("attention/(query|value)/kernel",), check=checks.not_empty() & checks.each(checks.regex()),
        doc="regular expressions, searched in parameter paths: the kernels of dense layers that get an update",
    )  # fmt: skip
    train: tuple[str, ...] = field(
        default=("^head/", "^pooler/"), check=checks.each(checks.regex()),
        doc="regular expressions, searched in parameter paths: the parameters that are trained beside the updates",
    )  # fmt: skip

    def trains(self, path: str) -> bool:
        """Whether the parameter at `path` is trained; all are without updates."""
        return not self.rank or is_update(path) or any(re.search(pattern, path) for pattern in self.train)


def is_update(path: str) -> bool:
    """Whether the parameter at `path` is A or B of an update."""
    return path.rpartition("/")[2] in (LORA_A, LORA_B)


def add(spec: LoraSpec, params: Mapping[str, Any], key: jax.Array, table: Table) -> dict[str, Any]:
    """`params` with an update beside each kernel that `spec` names: A uniform within 1 / sqrt(inputs), B zero.

    Raises ValueError for a pattern that matches no kernel, and for a kernel that no dense layer has.
    """
    flat: dict[str, Any] = dict(traverse_util.flatten_dict(dict(params), sep="/"))
    numbers = {path: number for number, path in enumerate(flat)}
    for path in _chosen(spec, flat):
        leaf, where = flat[path], path.removesuffix(_KERNEL)
        stacked, inputs = _axes(path, logical_axes(path, table))
        shape = leaf.shape[stacked:]
        lead, size = leaf.shape[:stacked], spec.rank
        # Fans are of one layer: the axis of layers counts as a batch.
        init = jax.nn.initializers.variance_scaling(
            1 / 3, "fan_in", "uniform", range(stacked, stacked + inputs), -1, tuple(range(stacked))
        )
        own = jax.random.fold_in(key, numbers[path])
        flat[where + LORA_A] = init(own, (*lead, *shape[:inputs], size), leaf.dtype)
        flat[where + LORA_B] = jax.numpy.zeros((*lead, size, *shape[inputs:]), leaf.dtype)
    return traverse_util.unflatten_dict(flat, sep="/")


def with_updates(table: Table, spec: LoraSpec, params: Mapping[str, Any]) -> Table:
    """The logical axes of `params`, with those of updates; the rank has no name."""
    if not spec.rank:
        return table
    found: list[tuple[str, Names]] = []
    for path in traverse_util.flatten_dict(dict(params), sep="/"):
        where, _, name = path.rpartition("/")
        if name != LORA_A:
            continue
        names = tuple(logical_axes(f"{where}/{_KERNEL}", table))
        stacked, inputs = _axes(path, names)
        lead, own, there = names[:stacked], names[stacked : stacked + inputs], re.escape(where)
        found += [
            (f"{there}/{LORA_A}", (*lead, *own, None)),
            (f"{there}/{LORA_B}", (*lead, None, *names[stacked + inputs :])),
        ]
    return (*found, *table)


def _chosen(spec: LoraSpec, flat: Mapping[str, Any]) -> list[str]:
    kernels = [path for path in flat if path.rpartition("/")[2] == _KERNEL]
    for pattern in spec.kernels:
        if not any(re.search(pattern, path) for path in kernels):
            some = ", ".join(kernels[:: max(1, len(kernels) // 3)][:4])
            raise ValueError(f"config.lora.kernels has {pattern!r}, which matches no kernel; there are {some} and more")
    return [path for path in kernels if any(re.search(pattern, path) for pattern in spec.kernels)]


def _axes(path: str, names: Names) -> tuple[int, int]:
    """The number of leading axes of layers, and that of axes that a dense layer contracts; `names` are a kernel's.

    Raises ValueError for the kernel of another layer than a dense one.
    """
    stacked = int(names[:1] == ("layers",))
    own = tuple(names[stacked:])
    if len(own) == 2:
        return stacked, 1
    if own[:2] == ("heads", "kv") and len(own) == 3:
        return stacked, 2
    if own[1:] == ("heads", "kv"):
        return stacked, 1
    raise ValueError(
        f"config.lora.kernels matches {path}, with the axes {', '.join(map(str, own))}; only dense layers can have "
        "low-rank updates"
    )
