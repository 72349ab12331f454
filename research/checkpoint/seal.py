"""The metadata of a checkpoint, protected by a checksum; it determines which checkpoints are kept.

It is the JSON object `STEP/meta/metadata`: the step, the config and the fingerprint of the data, the score, and the
shape, dtype and checksum of every leaf. No other file records which checkpoint is the best.
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

from etils import epath

_EARLIER = {"config", "data_fingerprint", "leaves"}  # the keys of versions without a checksum of the score


@dataclasses.dataclass(frozen=True)
class Entry:
    """Whether a checkpoint was evaluated, and its score (None: not evaluated or not finite)."""

    evaluated: bool = False
    score: float | None = None

    @classmethod
    def of(cls, score: float | None) -> "Entry":
        """The entry of a checkpoint with `score`; None: it was not evaluated."""
        return cls(score is not None, score if score is not None and math.isfinite(score) else None)


Entries = Mapping[int, Entry]  # by step


def seal(meta: Mapping[str, Any], step: int, entry: Entry, leaves: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON object of a checkpoint; `meta` holds its config and the fingerprint of its data."""
    content = {**meta, "step": step, **dataclasses.asdict(entry), "leaves": leaves}
    return content | {"checksum": _checksum(content)}


def read(checkpoint: epath.PathLike) -> dict[str, Any]:
    """The JSON object of the checkpoint in a folder that is named by its step.

    Raises ValueError or OSError if it is damaged or belongs to another step.
    """
    checkpoint = epath.Path(checkpoint)
    content = json.loads(path(checkpoint).read_text())
    if content.keys() == _EARLIER:
        raise EarlierVersionError(
            f"checkpoint {checkpoint} was written by an earlier version, which had no checksum of scores; train again"
        )
    if content.pop("checksum", None) != _checksum(content):
        raise ValueError("the checksum of meta/metadata differs")
    if str(content["step"]) != checkpoint.name:
        raise ValueError(f"it was saved at step {content['step']}")
    return content


def path(checkpoint: epath.Path) -> epath.Path:
    """The path of the JSON object of a checkpoint, as Orbax writes it."""
    return checkpoint / "meta" / "metadata"


def entry_of(content: Mapping[str, Any]) -> Entry:
    """The entry in the result of `read`."""
    return Entry(content["evaluated"], content["score"])


def steps(directory: epath.PathLike) -> list[int]:
    """The steps with a folder in `directory`, which need not exist, sorted."""
    directory = epath.Path(directory)
    names = [child.name for child in directory.iterdir()] if directory.exists() else []
    return sorted(int(name) for name in names if name.isdecimal())


def newest(directory: epath.PathLike) -> dict[str, Any] | None:
    """The metadata of the newest checkpoint in `directory` with intact metadata; None if there is none."""
    for step in reversed(steps(directory)):
        try:
            return read(epath.Path(directory) / str(step))
        except (ValueError, OSError, KeyError, AttributeError):
            continue
    return None


def select(directory: epath.PathLike, best: bool, mode: str) -> int | None:
    """The newest step in `directory` or, with `best`, the one with the best score if any has one; None if empty.

    Raises ValueError if any checkpoint is damaged, since it might be the one to select.
    """
    directory, entries = epath.Path(directory), {}
    for step in steps(directory):
        try:
            entries[step] = entry_of(read(directory / str(step)))
        except (ValueError, OSError, KeyError, AttributeError) as error:
            raise ValueError(f"checkpoint {directory / str(step)} is damaged ({error}); move it away") from error
    ranked = by_score(entries, mode) if best else []
    return (ranked or sorted(entries, reverse=True) or [None])[0]


def by_score(entries: Entries, mode: str) -> list[int]:
    """The steps that have a score, best first; of equal ones, newest first."""
    sign = {"min": -1, "max": 1}[mode]
    ranked = sorted((sign * entry.score, step) for step, entry in entries.items() if entry.score is not None)
    return [step for _, step in reversed(ranked)]


def kept(entries: Entries, last: int, best: int, mode: str) -> set[int]:
    """The steps to keep: the newest `last`, and the `best` with the best scores."""
    return {*sorted(entries, reverse=True)[:last], *by_score(entries, mode)[:best]}


class EarlierVersionError(ValueError):
    """An intact checkpoint of a version whose checkpoints cannot be verified."""


def _checksum(content: Mapping[str, Any]) -> str:
    # As after reading: tuples become lists, keys become strings.
    plain = json.loads(json.dumps(content))
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()
