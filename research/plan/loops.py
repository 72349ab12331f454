"""Trip counts of the loops of a compiled module.

XLA's optimised loops carry a counter in a tuple. Its start, step and limit are found by lazily evaluating the scalar
instructions that they depend on, through fusions and calls. Values are

    int                an integer
    Counter(k, n)      element k of the loop's tuple, plus n
    Comparison         what a condition returns
    a function         a tuple: index -> value
    None               anything else
"""

import dataclasses
import math
import re
from collections.abc import Callable
from typing import Any

from research.plan.hlo import Computation, Instruction, Module

_SAME = ("copy", "bitcast", "convert", "reshape", "opt-barrier", "copy-start", "copy-done", "optimization-barrier")
_FLIPPED = {"LT": "GT", "LE": "GE", "GT": "LT", "GE": "LE", "NE": "NE"}


@dataclasses.dataclass(frozen=True)
class Counter:
    """An element of a loop's tuple plus a constant."""

    element: int
    offset: int = 0


@dataclasses.dataclass(frozen=True)
class Comparison:
    """`left direction right`, as HLO writes directions: LT, LE, GT, GE, NE."""

    direction: str
    left: Any
    right: Any


Parameters = Callable[[int], Any]


def evaluate(module: Module, computation: Computation, name: str, parameters: Parameters) -> Any:
    """The value of the instruction `name`, given that of the computation's n-th parameter by `parameters(n)`."""
    instruction = computation.instructions.get(name)
    if instruction is None:
        return None
    operand = lambda index: evaluate(module, computation, instruction.operands[index], parameters)
    match instruction.opcode:
        case "constant":
            return int(instruction.arguments) if re.fullmatch(r"-?\d+", instruction.arguments.strip()) else None
        case "parameter":
            return parameters(int(instruction.arguments))
        case "get-tuple-element":
            value, index = operand(0), instruction.attribute("index")
            return value(int(index)) if callable(value) and index is not None else None
        case "tuple":
            return operand
        case "add" | "subtract" | "multiply":
            return _arithmetic(instruction.opcode, operand(0), operand(1))
        case "compare":
            direction = instruction.attribute("direction")
            return Comparison(direction, operand(0), operand(1)) if direction else None
        case "fusion" | "call":
            called = instruction.callees()
            callee = module.computations[(called.get("calls") or called["to_apply"])[0]]
            return evaluate(module, callee, callee.root.name, operand)
        case "while":
            return lambda index: _invariant(module, instruction, index, operand(0))
        case opcode if opcode in _SAME:
            return operand(0)
    return None


def trip_count(module: Module, computation: Computation, loop: Instruction, parameters: Parameters) -> int | None:
    """The trip count of a `while`; None if it depends on data."""
    known = re.search(r'"known_trip_count":\s*\{\s*"n":\s*"(\d+)"', loop.attributes)
    if known:
        return int(known[1])
    condition = module.computations[loop.callees()["condition"][0]]
    test = evaluate(module, condition, condition.root.name, _symbols)
    if not isinstance(test, Comparison):
        return None
    start_of = evaluate(module, computation, loop.operands[0], parameters)
    start_of = start_of if callable(start_of) else lambda index: None
    for direction, counter, limit in (
        (test.direction, test.left, test.right),
        (_FLIPPED.get(test.direction), test.right, test.left),
    ):
        if isinstance(limit, Counter):  # another element, which is loop-invariant
            limit = _shifted(_invariant(module, loop, limit.element, start_of), limit.offset)
        if isinstance(counter, Counter) and isinstance(limit, int):
            start = _shifted(start_of(counter.element), counter.offset)
            after = element_after(module, loop, counter.element)
            if isinstance(start, int) and isinstance(after, Counter) and after.element == counter.element:
                return _trips(direction, start, after.offset, limit)
    return None


def body_parameters(module: Module, loop: Instruction, start_of: Any) -> Parameters:
    """The known values of a loop's tuple within its body: the loop-invariant elements."""
    start_of = start_of if callable(start_of) else lambda index: None
    return lambda parameter: lambda index: _invariant(module, loop, index, start_of)


def element_after(module: Module, loop: Instruction, element: int) -> Any:
    """An element of the loop's tuple after one execution of the body, in terms of the elements before it."""
    body = module.computations[loop.callees()["body"][0]]
    after = evaluate(module, body, body.root.name, _symbols)
    return after(element) if callable(after) else None


def _symbols(parameter: int) -> Any:
    return Counter


def _invariant(module: Module, loop: Instruction, element: int, start_of: Any) -> Any:
    unchanged = element_after(module, loop, element) == Counter(element)
    return start_of(element) if unchanged and callable(start_of) else None


def _shifted(value: Any, offset: int) -> Any:
    return value + offset if isinstance(value, int) else None


def _arithmetic(opcode: str, left: Any, right: Any) -> Any:
    if isinstance(left, int) and isinstance(right, int):
        return {"add": left + right, "subtract": left - right, "multiply": left * right}[opcode]
    if opcode == "add" and isinstance(left, int):
        left, right = right, left
    if opcode != "multiply" and isinstance(left, Counter) and isinstance(right, int):
        return Counter(left.element, left.offset + (right if opcode == "add" else -right))
    return None


def _trips(direction: str | None, start: int, step: int, limit: int) -> int | None:
    if direction in ("GT", "GE"):
        direction, start, step, limit = _FLIPPED[direction], -start, -step, -limit
    if direction == "NE" and step:
        return max(0, (limit - start) // step)
    if direction not in ("LT", "LE") or step <= 0:
        return None
    return max(0, math.ceil((limit + (direction == "LE") - start) / step))
