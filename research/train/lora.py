"""Adapters of dense layers: low-rank updates (LoRA, Hu et al., 2022) and trained scales (IA3, Liu et al., 2022)."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from flax import traverse_util

from research.models.dense import IA3_IN, IA3_OUT, LORA_A, LORA_B
from research.parallel.sharding import Names, Table, logical_axes
from research.spec import Spec, checks, field

_KERNEL = "kernel"
_PATTERNS = checks.each(checks.regex())


class LoraSpec(Spec, tag="lora"):
    """Low-rank updates x A B of dense layers, with A [inputs, rank] initialised randomly and B [rank, features] to 0.

    The scale is 1, as with `alpha` equal to the rank in the paper. With `scale_inputs` and `scale_outputs`, inputs and
    outputs of dense layers are multiplied by trained vectors, initialised to 1 (IA3). All parameters but these and
    `train` are frozen.
    """

    rank: int = field(default=0, check=checks.between(0, 4096), doc="rank of the updates; 0: off")
    kernels: tuple[str, ...] = field(
        default=("attention/(query|value)/kernel",), check=checks.not_empty() & _PATTERNS,
        doc="regular expressions, searched in parameter paths: the kernels of dense layers that get an update",
    )  # fmt: skip
    scale_inputs: tuple[str, ...] = field(
        default=(), absent=(), check=_PATTERNS,
        doc="regular expressions: the kernels of dense layers whose inputs are scaled; of IA3: 'mlp/down/kernel'",
    )  # fmt: skip
    scale_outputs: tuple[str, ...] = field(
        default=(), absent=(), check=_PATTERNS,
        doc="as scale_inputs, for outputs; of IA3: 'attention/(key|value)/kernel'",
    )  # fmt: skip
    train: tuple[str, ...] = field(
        default=("^head/", "^pooler/"), check=_PATTERNS,
        doc="regular expressions, searched in parameter paths: the parameters that are trained besides the adapters",
    )  # fmt: skip

    @property
    def adapts(self) -> bool:
        """Whether any layer has an adapter."""
        return bool(self.rank or self.scale_inputs or self.scale_outputs)

    def trains(self, path: str) -> bool:
        """Whether the parameter at `path` is trained; always true without adapters."""
        return not self.adapts or is_update(path) or any(re.search(pattern, path) for pattern in self.train)


def is_update(path: str) -> bool:
    """Whether the parameter at `path` belongs to an adapter: A or B of an update, or a scale."""
    return path.rpartition("/")[2] in (LORA_A, LORA_B, IA3_IN, IA3_OUT)


def add(spec: LoraSpec, params: Mapping[str, Any], key: jax.Array, table: Table) -> dict[str, Any]:
    """`params` with the adapters of `spec`: A is uniform within 1 / sqrt(inputs), B is 0, scales are 1.

    Raises ValueError for a pattern that matches no kernel, and for a kernel of a layer that is not dense.
    """
    flat: dict[str, Any] = dict(traverse_util.flatten_dict(dict(params), sep="/"))
    numbers, added = {path: number for number, path in enumerate(flat)}, {}
    for path in _chosen("kernels", spec.kernels, flat) if spec.rank else ():
        leaf, where = flat[path], path.removesuffix(_KERNEL)
        stacked, inputs = axes(path, table)
        shape = leaf.shape[stacked:]
        lead, size = leaf.shape[:stacked], spec.rank
        # The layers axis is a batch axis, so that the fan-in is that of one layer.
        init = jax.nn.initializers.variance_scaling(
            1 / 3, "fan_in", "uniform", range(stacked, stacked + inputs), -1, tuple(range(stacked))
        )
        own = jax.random.fold_in(key, numbers[path])
        added[where + LORA_A] = init(own, (*lead, *shape[:inputs], size), leaf.dtype)
        added[where + LORA_B] = jax.numpy.zeros((*lead, size, *shape[inputs:]), leaf.dtype)
    for field_, name, of_inputs in (("scale_inputs", IA3_IN, True), ("scale_outputs", IA3_OUT, False)):
        for path in _chosen(field_, getattr(spec, field_), flat):
            parts = _parts(flat[path].shape, *axes(path, table))
            shape = (*parts[0], *(parts[1] if of_inputs else parts[2]))
            added[path.removesuffix(_KERNEL) + name] = jax.numpy.ones(shape, flat[path].dtype)
    return traverse_util.unflatten_dict(flat | added, sep="/")


def with_updates(table: Table, spec: LoraSpec, params: Mapping[str, Any]) -> Table:
    """The table of logical axes with entries for the adapters in `params`; the rank axis has no name."""
    if not spec.adapts:
        return table
    found: list[tuple[str, Names]] = []
    for path in traverse_util.flatten_dict(dict(params), sep="/"):
        where, _, name = path.rpartition("/")
        if is_update(path):
            kernel = f"{where}/{_KERNEL}"
            lead, inputs, features = _parts(logical_axes(kernel, table), *axes(kernel, table))
            names = {LORA_A: (*inputs, None), LORA_B: (None, *features), IA3_IN: inputs, IA3_OUT: features}
            found.append((re.escape(path), (*lead, *names[name])))
    return (*found, *table)


def _chosen(field_: str, patterns: tuple[str, ...], flat: Mapping[str, Any]) -> Iterator[str]:
    kernels = [path for path in flat if path.rpartition("/")[2] == _KERNEL]
    for pattern in patterns:
        if not any(re.search(pattern, path) for path in kernels):
            some = ", ".join(kernels[:: max(1, len(kernels) // 3)][:4])
            raise ValueError(f"config.lora.{field_} has {pattern!r}, which matches no kernel such as {some}")
    return (path for path in kernels if any(re.search(pattern, path) for pattern in patterns))


def _parts(items: Any, stacked: int, inputs: int) -> tuple[tuple[Any, ...], ...]:
    """The part of `items`, one for each axis of a kernel, for stacked layers, inputs and features."""
    items = tuple(items)
    return items[:stacked], items[stacked : stacked + inputs], items[stacked + inputs :]


def axes(path: str, table: Table) -> tuple[int, int]:
    """The numbers of stacked layer axes and of contracted axes of the kernel at `path`.

    Raises ValueError if the kernel is not that of a dense layer.
    """
    names = tuple(logical_axes(path, table))
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
        "adapters"
    )
