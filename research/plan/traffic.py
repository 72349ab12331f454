"""Bytes that a compiled step reads from and writes to HBM, estimated from its HLO.

Every instruction that is not inside a fusion reads its operands and writes its result, unless they are in a TPU's
on-chip memory. A fusion that only slices an operand, or updates a slice of it in place, accesses only the slice.
"""

from collections.abc import Iterable

from research.plan.collectives import OPCODES as COLLECTIVES
from research.plan.hlo import Computation, Instruction, Module
from research.plan.walk import visits

# Opcodes that move no bytes, or whose bytes count elsewhere: in their computations, or at the other half of a pair.
_FREE = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call", "after-all",
    "opt-barrier", "partition-id", "replica-id", "iota", "domain", "async-update", "async-start",
}  # fmt: skip
_SLICES = ("dynamic-slice", "slice", "gather")
_VIEWS = ("bitcast", "reshape", "convert", "copy", "get-tuple-element")


def hbm_bytes(module: Module) -> int:
    """Bytes on one device over a whole step, loops included."""
    return sum(
        visit.trips * _touched(module, visit.computation, visit.instruction)
        for visit in visits(module, len)
        if not visit.fused and visit.instruction.opcode not in _FREE and not visit.instruction.opcode.endswith("-done")
    )


def _touched(module: Module, computation: Computation, instruction: Instruction) -> int:
    operands = [computation.instructions[name] for name in instruction.operands if name in computation.instructions]
    if instruction.opcode.endswith("-start"):  # its shape has source and destination; the smaller one is moved
        ends = [array for array in instruction.arrays if array.dims]
        moved = min((array.num_bytes for array in ends), default=0)
        return moved * min(2, sum(array.space == 0 for array in ends))
    if instruction.opcode == "custom-call" and not operands:  # only reserves a buffer
        return 0
    if instruction.opcode == "dynamic-update-slice":
        return 2 * _in_hbm(operands[1:2])
    if instruction.opcode in _SLICES:
        return 2 * _in_hbm([instruction])
    if instruction.opcode == "fusion":
        return _fusion(module, instruction, operands)
    return _in_hbm(operands) + _in_hbm([instruction])


def _fusion(module: Module, instruction: Instruction, operands: list[Instruction]) -> int:
    """The bytes that a fusion reads of its operands and writes of its result, which may be updated in place."""
    body = module.computations[instruction.callees()["calls"][0]]
    total, untouched = 0, 0
    # A part of an asynchronous collective only passes its buffers on; their bytes count with the collective.
    handed_on = set()
    if _communicates(module, body):
        handed_on = {array for operand in operands for array in operand.arrays} & set(instruction.arrays)
        untouched += sum(array.num_bytes for array in instruction.arrays if array.space == 0 and array in handed_on)
    for index, operand in enumerate(operands):
        if handed_on.issuperset(operand.arrays):
            continue
        whole = _in_hbm([operand])
        read, updated = _reach(module, body, index) if whole else (0, 0)
        total += min(whole, read)
        untouched += whole - min(whole, updated) if updated and not read else 0
    return total + max(0, _in_hbm([instruction]) - untouched)


def _communicates(module: Module, body: Computation) -> bool:
    return any(
        inner.opcode in COLLECTIVES
        or (inner.opcode == "fusion" and _communicates(module, module.computations[inner.callees()["calls"][0]]))
        for inner in body.instructions.values()
    )


def _reach(module: Module, body: Computation, index: int) -> tuple[int, int]:
    """Bytes of a parameter of a fusion that are read, and bytes that are updated in place."""
    every = body.instructions.values()
    found = {inner.name for inner in every if inner.opcode == "parameter" and inner.arguments.strip() == str(index)}
    read, updated = 0, 0
    for inner in every:  # in order, so that a view comes before its readers
        used = [place for place, name in enumerate(inner.operands) if name in found]
        if not used:
            continue
        if inner.opcode in _VIEWS:
            found.add(inner.name)
        elif inner.opcode in _SLICES:
            read += inner.num_bytes
        elif inner.opcode == "dynamic-update-slice" and used == [0]:
            updated += body.instructions[inner.operands[1]].num_bytes
        elif inner.opcode == "fusion":
            called = module.computations[inner.callees()["calls"][0]]
            parts = [_reach(module, called, place) for place in used]
            read, updated = read + sum(part[0] for part in parts), updated + sum(part[1] for part in parts)
        elif inner.opcode != "tuple":
            read += max(body.instructions[name].num_bytes for name in inner.operands if name in found)
    return read, updated


def _in_hbm(instructions: Iterable[Instruction]) -> int:
    return sum(array.num_bytes for each in instructions for array in each.arrays if array.space == 0)
