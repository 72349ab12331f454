"""How a parameter of ours lies in another library's tensors, in both directions.

A `Row` of a table pairs the path of one parameter with the names of the tensors that hold it. With `{layer}` in the
names, ours has a leading axis of layers, each of which is a tensor there; several names are parts that are joined.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np

from research.interop.safetensors import Spec

Shape = tuple[int, ...]
Index = tuple[slice, ...]


class Tensors(Protocol):
    """Tensors by their names, of which `specs` are known and values are read when they are asked for."""

    specs: Mapping[str, Spec]

    def read(self, name: str) -> np.ndarray:
        """The tensor."""


@dataclasses.dataclass(frozen=True)
class Layout:
    """How one tensor of theirs is one of ours (of one layer): two functions that undo each other.

    `to_ours(theirs, shape of ours)`, `to_theirs(ours)`; neither computes with the values.
    """

    to_ours: Callable[[np.ndarray, Shape], np.ndarray]
    to_theirs: Callable[[np.ndarray], np.ndarray]

    def their_shape(self, ours: Shape) -> Shape:
        """The shape there of what is `ours` here."""
        return self.to_theirs(np.broadcast_to(np.float32(0), ours)).shape


# The same on both sides.
SAME = Layout(lambda theirs, shape: theirs, lambda ours: ours)
# A bias of [heads * kv] is [heads, kv] here.
FLAT = Layout(lambda theirs, shape: theirs.reshape(shape), lambda ours: ours.reshape(-1))
# PyTorch's convolutions are [out, in, length] or [out, in, height, width]; ours [length, in, out] and so on.
CONV1D = Layout(lambda theirs, shape: theirs.transpose(2, 1, 0), lambda ours: ours.transpose(2, 1, 0))
CONV = Layout(lambda theirs, shape: theirs.transpose(2, 3, 1, 0), lambda ours: ours.transpose(3, 2, 0, 1))


def linear(inputs: int = 1) -> Layout:
    """PyTorch's linear layers are [out, in]; ours [in, out], each of which may be [heads, kv].

    `inputs` is how many axes the inputs have here.
    """

    def to_theirs(ours):
        return ours.reshape(math.prod(ours.shape[:inputs]), -1).T

    return Layout(lambda theirs, shape: theirs.T.reshape(shape), to_theirs)


LINEAR = linear()  # [out, in] <-> [in, out] or [in, heads, kv]
FROM_HEADS = linear(inputs=2)  # [out, heads * kv] <-> [heads, kv, out]


@dataclasses.dataclass(frozen=True)
class Row:
    """One parameter of ours, and their tensors.

    Where there are several, ours holds them side by side along `join`, an axis of one layer; a single one lies along it
    too if `join` is given.
    """

    ours: str
    theirs: str | tuple[str, ...]
    layout: Layout = SAME
    join: int | None = None

    @property
    def is_stacked(self) -> bool:
        """Whether ours has a leading axis of layers."""
        return "{layer}" in self._parts[0]

    @property
    def _parts(self) -> tuple[str, ...]:
        return (self.theirs,) if isinstance(self.theirs, str) else self.theirs

    def names(self, ours: Shape) -> list[str]:
        """The names of all of their tensors, for a parameter of the shape `ours`."""
        if not self.is_stacked:
            return list(self._parts)
        return [name.format(layer=layer) for layer in range(ours[0]) for name in self._parts]

    def their_shape(self, ours: Shape) -> Shape:
        """The shape of each of their tensors."""
        return self.layout.their_shape(self._part_shape(ours))

    def _part_shape(self, ours: Shape) -> Shape:
        shape = ours[1:] if self.is_stacked else ours
        return shape if self.join is None else shape[: self.join] + shape[self.join + 1 :]

    def read(self, tensors: Tensors, ours: Shape, index: Index, dtype: np.dtype) -> np.ndarray:
        """The values at `index` of a parameter of the shape `ours`, of which no more than a layer is held at a time."""
        part_shape = self._part_shape(ours)

        def one(layer):
            parts = [self.layout.to_ours(tensors.read(part.format(layer=layer)), part_shape) for part in self._parts]
            return parts[0] if self.join is None else np.stack(parts, self.join)

        if not self.is_stacked:
            return np.array(one(None)[index], dtype, order="C")
        layers, rest = range(*index[0].indices(ours[0])), index[1:]
        values = np.empty((len(layers), *_shape_at(rest, ours[1:])), dtype)
        for place, layer in enumerate(layers):
            values[place] = one(layer)[rest]
        return values

    def write(self, ours: Callable[[], np.ndarray], shape: Shape) -> Iterator[tuple[str, Callable[[], np.ndarray]]]:
        """Their tensors of a parameter of ours, each with a function that makes it of `ours()`."""

        def part(layer, number):
            array = ours() if layer is None else ours()[layer]
            return self.layout.to_theirs(array if self.join is None else array.take(number, self.join))

        for layer in range(shape[0]) if self.is_stacked else (None,):
            for number, name in enumerate(self._parts):
                yield name.format(layer=layer), lambda layer=layer, number=number: part(layer, number)


def _shape_at(index: Sequence[slice], shape: Shape) -> Shape:
    return tuple(len(range(*part.indices(size))) for part, size in zip(index, shape, strict=True))
