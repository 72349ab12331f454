"""Concatenates several short sounds of one speaker, with pauses, into a longer one."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class JoinPlan(NamedTuple):
    """The indices of the sounds in order, and the pauses in ms before each of them and after the last."""

    parts: tuple[int, ...]
    pauses_ms: tuple[int, ...]


def draw(
    rng: np.random.Generator,
    choices: Sequence[int] | np.ndarray,
    most: int,
    pause_ms: Sequence[float],
    lengths_ms: np.ndarray,
    longest_ms: float,
    long: bool = False,
) -> JoinPlan:
    """Draws the sounds of a joined example.

    Args:
        rng: The source of the random choices.
        choices: The indices to draw from, with replacement.
        most: The number of sounds is uniform from 1 to this.
        pause_ms: The range of the pauses.
        lengths_ms: The length of each sound.
        longest_ms: The maximum length of the result; sounds at the end are dropped to fit, except the first sound.
        long: Take the maximum of two random numbers of sounds, so that rows contain less padding.
    """
    count = int(rng.integers(1, most + 1, size=2 if long else 1).max())
    parts = np.asarray(choices)[rng.integers(0, len(choices), size=count)]
    pauses = rng.integers(int(pause_ms[0]), int(pause_ms[1]) + 1, size=count + 1)
    ends = pauses[0] + np.cumsum(lengths_ms[parts] + pauses[1:])
    kept = max(1, int(np.count_nonzero(ends <= longest_ms)))
    return JoinPlan(tuple(parts[:kept].tolist()), tuple(pauses[: kept + 1].tolist()))


def join(sounds: Sequence[np.ndarray], pauses_ms: Sequence[int], rate: int) -> np.ndarray:
    """Concatenates sounds at `rate` Hz with the pauses of a `JoinPlan`, filled with zeros."""
    pauses = [np.zeros(round(pause * rate / 1000), np.float32) for pause in pauses_ms]
    return np.concatenate([pauses[0], *(part for pair in zip(sounds, pauses[1:], strict=True) for part in pair)])
