"""Bytes that the collectives of a compiled step move, by kind and by mesh axis.

Counted are the bytes that one chip receives in one step, with ring algorithms; for an array of S bytes over a group of
n chips

    all-gather, reduce-scatter, all-to-all     S (n-1)/n, with S the whole array
    all-reduce                               2 S (n-1)/n
    collective-permute                         S

times the trip counts of enclosing loops. Asynchronous fusions repeat a collective in several computations, so each
channel counts once. XLA also converts gathers and scatters to loops of permutes that overlap with a product.
"""

import dataclasses
import itertools
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from research.plan.hlo import Instruction, Module
from research.plan.walk import Visit, visits

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute", "collective-broadcast")
OPCODES = {kind + suffix: kind for kind in KINDS for suffix in ("", "-start")} | {"ragged-all-to-all": "all-to-all"}

Groups = list[tuple[int, ...]]


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective of a step; `axes` are the mesh axes it runs over, `num_bytes` as above, loops included."""

    name: str
    kind: str
    axes: tuple[str, ...]
    num_bytes: int
    trips: int
    certain: bool  # False in a loop with a data-dependent trip count, which counts as 1


def collectives(module: Module, mesh_shape: Mapping[str, int]) -> list[Collective]:
    """The collectives of a module that was partitioned over a mesh of this shape (axes in mesh order)."""
    size = math.prod(mesh_shape.values())
    found = [
        (visit, OPCODES[visit.instruction.opcode])
        for visit in visits(module, lambda branch: sum(visit.trips * _moved(visit, size) for visit in branch))
        if visit.instruction.opcode in OPCODES
    ]
    channels = defaultdict(list)
    for position, (visit, kind) in enumerate(found):
        channel = visit.instruction.attribute("channel_id")
        # All scatter fusions have the same channel number, but none of them is repeated.
        alone = channel is None or _is_all_reduce_scatter(visit)
        channels[position if alone else (kind, channel, _moved(visit, size))].append(visit)
    return [
        result for same in channels.values() if (result := _collective(_representative(same), mesh_shape, size)).axes
    ]


def total_bytes(found: Iterable[Collective], by: str = "kind") -> dict:
    """Bytes by `kind` or by `axes`, largest first."""
    totals = defaultdict(int)
    for collective in found:
        totals[getattr(collective, by)] += collective.num_bytes
    return dict(sorted(totals.items(), key=lambda item: -item[1]))


def _representative(same: Sequence[Visit]) -> Visit:
    """The visit that represents a channel.

    Parts of an asynchronous fusion may be in a loop within its duration, so the smallest trip count is right; a plain
    collective that was duplicated runs at each occurrence.
    """
    if any(visit.fused for visit in same):
        return min(same, key=lambda visit: visit.trips)
    return max(same, key=lambda visit: visit.trips)


def _collective(visit: Visit, mesh_shape: Mapping[str, int], size: int) -> Collective:
    instruction = visit.instruction
    kind = "reduce-scatter" if _is_all_reduce_scatter(visit) else OPCODES[instruction.opcode]
    return Collective(
        name=instruction.name,
        kind=kind,
        axes=mesh_axes(_groups(instruction, size), mesh_shape),
        num_bytes=visit.trips * _moved(visit, size),
        trips=visit.trips,
        certain=visit.certain,
    )


def _is_all_reduce_scatter(visit: Visit) -> bool:
    """Whether a TPU has fused an all-reduce with a slice of its result, which moves the bytes of a reduce-scatter."""
    names = (*visit.fused, visit.computation.name)
    return OPCODES[visit.instruction.opcode] == "all-reduce" and any("all-reduce-scatter" in name for name in names)


def _moved(visit: Visit, size: int) -> int:
    """Bytes that a chip receives in one execution."""
    instruction = visit.instruction
    kind = OPCODES.get(instruction.opcode)
    if kind is None:
        return 0
    groups = _groups(instruction, size)
    inputs = [
        visit.computation.instructions[name].num_bytes
        for name in instruction.operands
        if name in visit.computation.instructions
    ]
    if kind == "collective-permute":  # further operands are buffers and indices
        moves = any(source != target for source, target in groups)
        return inputs[0] * moves
    whole, members = sum(inputs), max(len(group) for group in groups)
    if kind == "all-gather":
        return whole * (members - 1)
    if kind == "collective-broadcast":
        return whole * (members > 1)
    factor = 2 if kind == "all-reduce" and not _is_all_reduce_scatter(visit) else 1
    return factor * whole * (members - 1) // members


def mesh_axes(groups: Groups, mesh_shape: Mapping[str, int]) -> tuple[str, ...]:
    """The mesh axes along which the members of a group differ; partitions are numbered in row-major mesh order."""
    sizes = tuple(mesh_shape.values())
    moved = set()
    for group in groups:
        coordinates = np.array(np.unravel_index(np.array(group), sizes))
        moved |= {axis for axis, row in zip(mesh_shape, coordinates, strict=True) if len(set(row.tolist())) > 1}
    return tuple(axis for axis in mesh_shape if axis in moved)


def _groups(instruction: Instruction, size: int) -> Groups:
    text = instruction.attributes
    if pairs := re.search(r"source_target_pairs=\{(.*?)\}\}", text):
        return [(int(a), int(b)) for a, b in re.findall(r"\{(\d+),(\d+)", pairs[0])]
    return replica_groups(text, size)


def replica_groups(text: str, size: int) -> Groups:
    """The groups of partitions in any of the forms that XLA writes:

    {{0,1},{2,3}}, {} for everyone, [2,2]<=[4] or [2,2]<=[2,2]T(1,0), and mesh['a'=2,'b'=2] {'b'}.
    """
    if found := re.search(r"replica_groups=mesh\[([^\]]*)\](.*?)\{([^}]*)\}", text):
        return _mesh_groups(*found.groups())
    if found := re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", text):
        rows = _iota(found[2], found[3]).reshape(_integers(found[1]))
        return [tuple(row) for row in rows.tolist()]
    if found := re.search(r"replica_groups=\{(\{.*?\})\}", text):
        return [tuple(_integers(group)) for group in re.findall(r"\{([\d,]+)\}", found[1])]
    return [tuple(range(size))]


def _mesh_groups(axes: str, order: str, names: str) -> Groups:
    """`'a'=2,'b'=4`, perhaps `, device_ids=([4,2]T(1,0))`, and `'a','b':(2)2` (a part of an axis)."""
    sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", axes)}
    permuted = re.search(r"\[([\d,]+)\](?:<=\[[\d,]+\])?(?:T\(([\d,]+)\))?", order)
    devices = _iota(permuted[1], permuted[2]) if permuted else np.arange(math.prod(sizes.values()))
    shape, taken = [], []  # every axis is split into the parts before, in and after
    wanted = {name: (before, count) for name, before, count in re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", names)}
    for name, length in sizes.items():
        before, count = wanted.get(name, ("1", "1"))
        before, count = (int(before), int(count)) if before else (1, length)
        taken += [len(shape) + 1] if name in wanted else []
        shape += [before, count, length // before // count]
    kept = [axis for axis in range(len(shape)) if axis not in taken]
    rows = devices.reshape(shape).transpose(*kept, *taken)
    return [tuple(row) for row in rows.reshape(-1, math.prod(shape[axis] for axis in taken)).tolist()]


def _iota(dims: str, order: str | None) -> np.ndarray:
    shape = _integers(dims)
    numbers = np.arange(math.prod(shape)).reshape(shape)
    return (numbers.transpose(_integers(order)) if order else numbers).reshape(-1)


def _integers(text: str) -> list[int]:
    return [int(number) for number in itertools.chain(re.findall(r"\d+", text))]
