"""A parser for the parts of XLA's HLO text format that are needed to follow calls, loops and shapes.

%name (parameters) -> shape {
  ROOT %fusion.3 = bf16[16,64]{1,0:T(8,128)(2,1)S(1)} fusion(%a, %b), kind=kLoop, calls=%fused_computation.3
}
"""

import dataclasses
import math
import re
from functools import cached_property

_BITS = {
    "pred": 8,
    "token": 0,
    "opaque": 0,
    "bf16": 16,
    "c64": 64,
    "c128": 128,
}  # others have it in their name: f32, u4, f8e4m3fn
_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) (\(.*)?\{\s*$")
_NAMED = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = ")
_OPCODE = re.compile(r"\s*([a-z][\w\-]*)\(")
_ARRAY = re.compile(r"([a-z]\w*)\[([\d,<=\s]*)\](?:\{([^}]*)\})?")
_CALLEE = re.compile(r"\b(calls|to_apply|body|condition|true_computation|false_computation)=%?([\w.\-]+)")
_CALLEES = re.compile(r"\b(branch_computations|called_computations|calls)=\{([^}]*)\}")


@dataclasses.dataclass(frozen=True)
class Array:
    """One array of a shape; `space` is its memory space, 0 for HBM (others are on-chip memories of a TPU)."""

    dtype: str
    dims: tuple[int, ...]
    space: int = 0

    @property
    def num_bytes(self) -> int:
        """The size without padding."""
        bits = _BITS.get(self.dtype) or int((re.findall(r"\d+", self.dtype) or [0])[0])
        return math.ceil(math.prod(self.dims) * bits / 8)


@dataclasses.dataclass(frozen=True)
class Instruction:
    """`name = shape opcode(operands), attributes`."""

    name: str
    shape: str
    opcode: str
    arguments: str  # the text between the parentheses
    attributes: str
    is_root: bool

    @cached_property
    def arrays(self) -> tuple[Array, ...]:
        """The arrays of its (possibly nested tuple) shape, in order."""
        return parse_shape(self.shape)

    @property
    def num_bytes(self) -> int:
        """The size of all its arrays, without padding."""
        return sum(array.num_bytes for array in self.arrays)

    @cached_property
    def operands(self) -> tuple[str, ...]:
        """The names of its operands."""
        return tuple(re.findall(r"%([\w.\-]+)", self.arguments))

    def attribute(self, name: str) -> str | None:
        """The text of a plain attribute, such as `direction`."""
        found = re.search(rf"\b{name}=([\w.\-]+)", self.attributes)
        return found and found[1]

    def callees(self) -> dict[str, list[str]]:
        """Called computations by attribute: `calls`, `body`, `condition`, `branch_computations` ..."""
        called: dict[str, list[str]] = {}
        for how, name in _CALLEE.findall(self.attributes):
            called.setdefault(how, []).append(name)
        for how, names in _CALLEES.findall(self.attributes):
            called[how] = re.findall(r"%?([\w.\-]+)", names)
        return called


@dataclasses.dataclass
class Computation:
    """Instructions by name, in their order."""

    name: str
    instructions: dict[str, Instruction] = dataclasses.field(default_factory=dict)

    @cached_property
    def root(self) -> Instruction:
        """The root instruction."""
        every = list(self.instructions.values())
        return next((instruction for instruction in every if instruction.is_root), every[-1])


@dataclasses.dataclass
class Module:
    """Computations by name, and the name of the entry computation."""

    computations: dict[str, Computation]
    entry: str


def parse(text: str) -> Module:
    """Parses the text of `compiled.as_text()`. Raises ValueError if it has no entry computation."""
    computations, entry, current = {}, None, None
    for line in text.splitlines():
        header = _HEADER.match(line)
        if header and not line.startswith("HloModule"):
            current = computations[header[2]] = Computation(header[2])
            entry = header[2] if header[1] else entry
        elif current is not None and (named := _NAMED.match(line)):
            instruction = _instruction(named, line[named.end() :])
            if instruction:
                current.instructions[instruction.name] = instruction
    if entry is None:
        raise ValueError("the text is not an HLO module: it has no ENTRY computation")
    return Module(computations, entry)


def parse_shape(text: str) -> tuple[Array, ...]:
    """The arrays of a shape, such as `(f32[2,3]{1,0}, u32[]{:S(2)})`."""
    arrays = []
    for dtype, dims, layout in _ARRAY.findall(text):
        sizes = tuple(int(size) for size in re.findall(r"\d+", dims))
        space = re.search(r"S\((\d+)\)", layout)
        arrays.append(Array(dtype, sizes, int(space[1]) if space else 0))
    return tuple(arrays)


def _instruction(named: re.Match, rest: str) -> Instruction | None:
    end = _closing(rest, 0) if rest.startswith("(") else rest.index(" ")
    shape, rest = rest[:end], rest[end:]
    opcode = _OPCODE.match(rest)
    if not opcode:
        return None
    end = _closing(rest, opcode.end() - 1)
    return Instruction(
        named[2], shape, opcode[1], rest[opcode.end() : end - 1], rest[end:], is_root=named[1] is not None
    )


def _closing(text: str, start: int) -> int:
    """The position after the parenthesis that closes the one at `start`."""
    depth = 0
    for match in re.finditer(r"[()]", text[start:]):
        depth += 1 if match[0] == "(" else -1
        if not depth:
            return start + match.end()
    return len(text)
