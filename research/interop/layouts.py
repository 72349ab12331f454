"""Maps our parameters to another library's tensors, in both directions.

A `Row` of a table pairs the path of one parameter with the name of the tensor that holds it. With `{layer}` in the
name, our parameter has a leading axis of layers, each of which is a separate tensor of theirs.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np

from research.interop.safetensors import TensorSpec

Shape = tuple[int, ...]
Index = tuple[slice, ...]


class TensorSource(Protocol):
    """Tensors by name: `specs`, and values that are read lazily."""

    @property
    def specs(self) -> Mapping[str, TensorSpec]:
        """Shapes and dtypes by name."""
        ...

    def read(self, name: str) -> np.ndarray:
        """The tensor."""
        ...


@dataclasses.dataclass(frozen=True)
class Layout:
    """Converts between one tensor of theirs and one of ours (of one layer), by two inverse functions.

    `to_ours(theirs, our_shape)` and `to_theirs(ours)` only move values, and do not compute with them.
    """

    to_ours: Callable[[np.ndarray, Shape], np.ndarray]
    to_theirs: Callable[[np.ndarray], np.ndarray]

    def their_shape(self, ours: Shape) -> Shape:
        """Their shape of a tensor whose shape is `ours` on our side."""
        return self.to_theirs(np.broadcast_to(np.float32(0), ours)).shape


# Equal on both sides.
SAME = Layout(lambda theirs, shape: theirs, lambda ours: ours)
# Their bias [heads * kv] is ours [heads, kv].
FLAT = Layout(lambda theirs, shape: theirs.reshape(shape), lambda ours: ours.reshape(-1))
# PyTorch's convolutions are [out, in, length] or [out, in, height, width]; ours [length, in, out] and so on.
CONV1D = Layout(lambda theirs, shape: theirs.transpose(2, 1, 0), lambda ours: ours.transpose(2, 1, 0))
CONV = Layout(lambda theirs, shape: theirs.transpose(2, 3, 1, 0), lambda ours: ours.transpose(3, 2, 0, 1))


def linear(inputs: int = 1) -> Layout:
    """PyTorch's linear layers are [out, in]; ours [in, out], each of which may be [heads, kv].

    `inputs` is the number of input axes on our side.
    """

    def to_theirs(ours):
        return ours.reshape(math.prod(ours.shape[:inputs]), -1).T

    return Layout(lambda theirs, shape: theirs.T.reshape(shape), to_theirs)


LINEAR = linear()  # [out, in] <-> [in, out] or [in, heads, kv]
FROM_HEADS = linear(inputs=2)  # [out, heads * kv] <-> [heads, kv, out]


@dataclasses.dataclass(frozen=True)
class Row:
    """One of our parameters, and their tensor or, for a parameter with a leading axis of layers, tensors."""

    ours: str
    theirs: str
    layout: Layout = SAME

    @property
    def is_stacked(self) -> bool:
        """Whether our parameter has a leading axis of layers."""
        return "{layer}" in self.theirs

    def names(self, ours: Shape) -> list[str]:
        """The names of their tensors for a parameter of shape `ours`."""
        if not self.is_stacked:
            return [self.theirs]
        return [self.theirs.format(layer=layer) for layer in range(ours[0])]

    def their_shape(self, ours: Shape) -> Shape:
        """The shape of each of their tensors."""
        return self.layout.their_shape(ours[1:] if self.is_stacked else ours)

    def read(self, tensors: TensorSource, ours: Shape, index: Index, dtype: np.dtype) -> np.ndarray:
        """The values at `index` of a parameter of shape `ours`; at most one layer is in memory at a time."""
        if not self.is_stacked:
            return np.array(self.layout.to_ours(tensors.read(self.theirs), ours)[index], dtype, order="C")
        one = lambda layer: self.layout.to_ours(tensors.read(self.theirs.format(layer=layer)), ours[1:])
        layers, rest = range(*index[0].indices(ours[0])), index[1:]
        values = np.empty((len(layers), *_shape_at(rest, ours[1:])), dtype)
        for place, layer in enumerate(layers):
            values[place] = one(layer)[rest]
        return values

    def write(self, ours: Callable[[], np.ndarray], shape: Shape) -> Iterator[tuple[str, Callable[[], np.ndarray]]]:
        """Yields the name of each of their tensors, and a function that computes it from `ours()`."""
        if not self.is_stacked:
            yield self.theirs, lambda: self.layout.to_theirs(ours())
            return
        for layer in range(shape[0]):
            yield self.theirs.format(layer=layer), lambda layer=layer: self.layout.to_theirs(ours()[layer])


def _shape_at(index: Sequence[slice], shape: Shape) -> Shape:
    return tuple(len(range(*part.indices(size))) for part, size in zip(index, shape, strict=True))
