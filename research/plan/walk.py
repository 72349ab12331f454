"""Every instruction of a compiled module with its execution count per step."""

import dataclasses
from collections.abc import Callable, Iterator

from research.plan import loops
from research.plan.hlo import Computation, Instruction, Module


@dataclasses.dataclass(frozen=True)
class Visit:
    """One instruction at one node of the call tree; `trips` is the product of the trip counts of enclosing loops."""

    computation: Computation
    instruction: Instruction
    trips: int
    fused: tuple[str, ...]  # the fusions around it, outermost first
    certain: bool  # False in a loop with a data-dependent trip count, which counts as 1


def visits(module: Module, weight: Callable[[list[Visit]], float]) -> list[Visit]:
    """All visits; of a conditional, only the branch with the largest `weight`."""
    return list(_visit(module, weight, module.entry, lambda index: None, 1, (), True))


def _visit(
    module: Module, weight, name: str, parameters: loops.Parameters, trips: int, fused: tuple[str, ...], certain: bool
) -> Iterator[Visit]:
    computation = module.computations[name]
    for instruction in computation.instructions.values():
        yield Visit(computation, instruction, trips, fused, certain)
        called = instruction.callees()
        operand = lambda index, instruction=instruction: loops.evaluate(
            module, computation, instruction.operands[index], parameters
        )
        inside = lambda callee, times=1, given=operand, within=fused, sure=certain: _visit(
            module, weight, callee, given, trips * times, within, sure
        )
        match instruction.opcode:
            case "while":
                count = loops.trip_count(module, computation, instruction, parameters)
                given = loops.body_parameters(module, instruction, operand(0))
                for callee in (*called["body"], *called["condition"]):
                    times, sure = (1, False) if count is None else (count, certain)
                    yield from inside(callee, times, given=given, sure=sure)
            case "conditional":
                unknown = lambda index: None
                names = [callee for group in called.values() for callee in group]
                yield from max((list(inside(callee, given=unknown)) for callee in names), key=weight, default=[])
            case "fusion":
                yield from inside(called["calls"][0], within=(*fused, instruction.name))
            case "call" | "async-start":
                for callee in called.get("to_apply", []) + called.get("calls", []):
                    yield from inside(callee)
