"""Several short examples in one row of fixed length, and the arrays of such rows.

An example is a pair of token arrays, source and target. A row's tokens stand one example after the other; `segments`
count them 1, 2, ... (0: padding), so that attention can stay inside an example, and `positions` start anew in each.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

Example = tuple[np.ndarray, np.ndarray]  # source and target, int32 [length]
WINDOW = 256  # rows that are still open; with 4 times as many, padding shrinks by half a percent


def first_fit(lengths: np.ndarray, limits: tuple[int, int]) -> list[np.ndarray]:
    """The examples of each row, as ascending positions in `lengths` [examples, 2], in the order the rows were begun.

    Each example goes into the first open row that has room for both its source and its target; where there is none,
    the fullest row is closed and a new one begun. 1M examples take about 4 s. Each length must be within `limits`.
    """
    free = np.full((2, WINDOW), -1)  # tokens left in the open rows, source and target; -1: no row yet
    source_free, target_free = free
    rows, row_in = np.empty(len(lengths), np.int64), [0] * WINDOW
    begun = 0
    for example, (source, target) in enumerate(lengths.tolist()):
        fits = (source_free >= source) & (target_free >= target)
        slot = int(fits.argmax())
        if not fits[slot]:
            slot = int(np.minimum(source_free / limits[0], target_free / limits[1]).argmin())
            source_free[slot], target_free[slot] = limits
            row_in[slot] = begun
            begun += 1
        source_free[slot] -= source
        target_free[slot] -= target
        rows[example] = row_in[slot]
    order = np.argsort(rows, kind="stable")
    return np.split(order, np.cumsum(np.bincount(rows))[:-1])


def padding_share(lengths: np.ndarray, rows: int, limits: tuple[int, int]) -> float:
    """The part of all token positions, source and target, of `rows` rows that the examples leave empty."""
    return 1 - float(lengths.sum()) / (rows * sum(limits))


def buckets(lengths: np.ndarray, limits: tuple[int, int], count: int) -> list[tuple[tuple[int, int], np.ndarray]]:
    """((source length, target length), positions of the examples that need it) for up to `count` shapes, short first.

    The shapes are `limits`, their halves, quarters, ..., each rounded up to a multiple of 8 tokens. An example is in
    the smallest shape that holds it; a shape that no example needs is left out.
    """
    shapes = [limits]
    while len(shapes) < count:
        source, target = (min(length, -(-length // 16) * 8) for length in shapes[-1])
        shapes.append((source, target))
    found, rest = [], np.arange(len(lengths))
    for shape in reversed(shapes):
        fits = (lengths[rest] <= shape).all(axis=1)
        if fits.any():
            found.append((shape, rest[fits]))
        rest = rest[~fits]
    return found


class Packed(Sequence[list[Example]]):
    """Rows of examples: `packed[i]` is the list of the examples of row i."""

    def __init__(self, examples: Sequence[Example], rows: Sequence[np.ndarray] | np.ndarray):
        self._examples = examples
        # Flat, because a list of a million arrays is slow to hand to a worker process.
        self._order = np.concatenate(rows)
        self._ends = np.cumsum([len(row) for row in rows])

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> list[Example]:  # pyright: ignore[reportIncompatibleMethodOverride]  no slices
        start = self._ends[index - 1] if index else 0
        return [self._examples[example] for example in self._order[start : self._ends[index]].tolist()]


@dataclasses.dataclass(frozen=True)
class PackedToArrays:
    """A row's examples -> `source`, `source_segments`, `source_positions` int32 [source_length], `target...` alike."""

    source_length: int
    target_length: int

    def __call__(self, examples: Sequence[Example], rng: object = None) -> dict[str, np.ndarray]:
        """The arrays; nothing is random in them, whatever `rng`."""
        sources, targets = zip(*examples, strict=True)
        return arrays("source", sources, self.source_length) | arrays("target", targets, self.target_length)


def arrays(name: str, parts: Sequence[np.ndarray], length: int) -> dict[str, np.ndarray]:
    """`name`, `name_segments` and `name_positions`, int32 [length], of token arrays that share a row.

    Where a place of a row is a sentence, the parts are [sentences, tokens] and `name` is [length, tokens].
    """
    segments, positions = np.zeros((2, length), np.int32)
    tokens = np.zeros((length, *parts[0].shape[1:]), np.int32)
    end = 0
    for number, part in enumerate(parts, start=1):
        start, end = end, end + len(part)
        tokens[start:end] = part
        segments[start:end] = number
        positions[start:end] = np.arange(end - start)
    return {name: tokens, f"{name}_segments": segments, f"{name}_positions": positions}
