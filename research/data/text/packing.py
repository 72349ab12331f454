"""Packs several short examples into one row of fixed length, and makes the arrays of such rows.

An example is a pair of token arrays, source and target. The examples of a row are concatenated; `segments` number them
1, 2, ... (0: padding), so that attention can be masked between them, and `positions` restart at 0 in each.
"""

import dataclasses
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

Example = tuple[np.ndarray, np.ndarray]  # source and target, int32 [length]
ItemT = TypeVar("ItemT")
WINDOW = 256  # open rows; four times as many reduce padding by only half a percent


def first_fit(lengths: np.ndarray, limits: tuple[int, int]) -> list[np.ndarray]:
    """Assigns examples to rows by first fit.

    Each example goes into the first open row with room for both its source and its target; if there is none, the
    fullest row is closed and a new one opened. 1M examples take about 4 s.

    Args:
        lengths: [examples, 2], lengths of source and target, at most `limits`.
        limits: The source and the target length of a row.

    Returns:
        The ascending indices of the examples of each row, in the order in which rows were opened.
    """
    free = np.full((2, WINDOW), -1)  # free tokens of the open rows, source and target; -1: no row yet
    source_free, target_free = free
    rows, row_in = np.empty(len(lengths), np.int64), [0] * WINDOW
    opened = 0
    for example, (source, target) in enumerate(lengths.tolist()):
        fits = (source_free >= source) & (target_free >= target)
        slot = int(fits.argmax())
        if not fits[slot]:
            slot = int(np.minimum(source_free / limits[0], target_free / limits[1]).argmin())
            source_free[slot], target_free[slot] = limits
            row_in[slot] = opened
            opened += 1
        source_free[slot] -= source
        target_free[slot] -= target
        rows[example] = row_in[slot]
    order = np.argsort(rows, kind="stable")
    return np.split(order, np.cumsum(np.bincount(rows))[:-1])


def padding_share(lengths: np.ndarray, rows: int, limits: tuple[int, int]) -> float:
    """The share of padding among the source and target positions of `rows` rows."""
    return 1 - float(lengths.sum()) / (rows * sum(limits))


def buckets(lengths: np.ndarray, limits: tuple[int, int], count: int) -> list[tuple[tuple[int, int], np.ndarray]]:
    """Up to `count` length buckets, short first: ((source length, target length), indices of its examples).

    The shapes are `limits`, their halves, quarters, ..., each rounded up to a multiple of 8 tokens. An example is in
    the bucket of the smallest shape that holds it; empty buckets are omitted.
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


class Packed(Sequence[list[ItemT]]):
    """Rows of examples: item i is the list of the examples of row i."""

    def __init__(self, examples: Sequence[ItemT], rows: Sequence[np.ndarray] | np.ndarray):
        self._examples = examples
        # Flat, since a list of a million arrays is slow to send to a worker process.
        self._order = np.concatenate(rows)
        self._ends = np.cumsum([len(row) for row in rows])

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> list[ItemT]:  # pyright: ignore[reportIncompatibleMethodOverride]  no slices
        start = self._ends[index - 1] if index else 0
        return [self._examples[example] for example in self._order[start : self._ends[index]].tolist()]


@dataclasses.dataclass(frozen=True)
class PackedToArrays:
    """Converts the examples of a row to `source`, `source_segments`, `source_positions`, and the same for `target`."""

    source_length: int
    target_length: int

    def __call__(self, examples: Sequence[Example], rng: object = None) -> dict[str, np.ndarray]:
        """The arrays; `rng` is not used."""
        sources, targets = zip(*examples, strict=True)
        return arrays("source", sources, self.source_length) | arrays("target", targets, self.target_length)


def arrays(name: str, parts: Sequence[np.ndarray], length: int) -> dict[str, np.ndarray]:
    """`name`, `name_segments` and `name_positions`, int32 [length], of token arrays that share a row.

    If positions are sentences, the parts are [sentences, tokens] and `name` is [length, tokens].
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
