"""Several short sounds of one speaker as one longer sound: which, with which pauses, and how they are put together."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class JoinPlan(NamedTuple):
    """Which sounds follow each other, and the silence, in ms, before each of them and after the last."""

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
    """1 to `most` of `choices`, repeats allowed, with pauses between `pause_ms[0]` and `pause_ms[1]`.

    As many are kept, and one at least, as last `longest_ms` or less, of the `lengths_ms` that they have. All numbers of
    sounds are as likely, but with `long` it is the greater of two such numbers, so that rows are fuller.
    """
    count = int(rng.integers(1, most + 1, size=2 if long else 1).max())
    parts = np.asarray(choices)[rng.integers(0, len(choices), size=count)]
    pauses = rng.integers(int(pause_ms[0]), int(pause_ms[1]) + 1, size=count + 1)
    ends = pauses[0] + np.cumsum(lengths_ms[parts] + pauses[1:])
    kept = max(1, int(np.count_nonzero(ends <= longest_ms)))
    return JoinPlan(tuple(parts[:kept].tolist()), tuple(pauses[: kept + 1].tolist()))


def join(sounds: Sequence[np.ndarray], pauses_ms: Sequence[int], rate: int) -> np.ndarray:
    """The sounds one after the other, all at `rate` Hz, with the pauses of `Plan`, which are 0."""
    pauses = [np.zeros(round(pause * rate / 1000), np.float32) for pause in pauses_ms]
    return np.concatenate([pauses[0], *(part for pair in zip(sounds, pauses[1:], strict=True) for part in pair)])
