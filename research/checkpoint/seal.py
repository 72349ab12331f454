"""What lies beside the state of a checkpoint, under a checksum of its own; it alone decides which ones are kept.

It is the JSON object `STEP/meta/metadata`: the step, the config and the fingerprint of the data that the state comes
from, its score, and the shape, dtype and checksum of every leaf. Nothing else says which checkpoint is the best one.
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

from etils import epath

_EARLIER = {"config", "data_fingerprint", "leaves"}  # what versions without a checksum of the score wrote


@dataclasses.dataclass(frozen=True)
class Entry:
    """Whether a checkpoint was evaluated, and its score; None where it was not evaluated or its score is not finite."""

    evaluated: bool = False
    score: float | None = None

    @classmethod
    def of(cls, score: float | None) -> "Entry":
        """The entry of a checkpoint whose evaluation gave `score`, or that was not evaluated (None)."""
        return cls(score is not None, score if score is not None and math.isfinite(score) else None)


Entries = Mapping[int, Entry]  # by step


def seal(meta: Mapping[str, Any], step: int, entry: Entry, leaves: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON object to be written for a checkpoint; `meta` holds its config and the fingerprint of its data."""
    content = {**meta, "step": step, **dataclasses.asdict(entry), "leaves": leaves}
    return content | {"checksum": _checksum(content)}


def read(checkpoint: epath.PathLike) -> dict[str, Any]:
    """The JSON object of the checkpoint in a folder that is named by its step.

    Raises ValueError or OSError where it is damaged, or belongs to another step than the folder says.
    """
    checkpoint = epath.Path(checkpoint)
    content = json.loads(path(checkpoint).read_text())
    if content.keys() == _EARLIER:
        raise EarlierVersionError(
            f"checkpoint {checkpoint} was written by an earlier version, which kept no checksum of scores; train again"
        )
    if content.pop("checksum", None) != _checksum(content):
        raise ValueError("the checksum of meta/metadata differs")
    if str(content["step"]) != checkpoint.name:
        raise ValueError(f"it was saved at step {content['step']}")
    return content


def path(checkpoint: epath.Path) -> epath.Path:
    """Where the JSON object of the checkpoint in a folder lies, as Orbax writes it."""
    return checkpoint / "meta" / "metadata"


def entry_of(content: Mapping[str, Any]) -> Entry:
    """The entry in what `read` gave."""
    return Entry(content["evaluated"], content["score"])


def steps(directory: epath.PathLike) -> list[int]:
    """The steps that have a folder in `directory`, which need not exist, in their order."""
    directory = epath.Path(directory)
    names = [child.name for child in directory.iterdir()] if directory.exists() else []
    return sorted(int(name) for name in names if name.isdecimal())


def newest(directory: epath.PathLike) -> dict[str, Any] | None:
    """What lies beside the newest checkpoint in `directory` that is not damaged there; None where there is none."""
    for step in reversed(steps(directory)):
        try:
            return read(epath.Path(directory) / str(step))
        except (ValueError, OSError, KeyError, AttributeError):
            continue
    return None


def select(directory: epath.PathLike, best: bool, mode: str) -> int | None:
    """The newest step in `directory`, or the one with the best score if any has one; None where there is no step.

    Raises ValueError where a checkpoint is damaged, since that might be the one.
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
    """The steps that have a score, the best one first; of equal ones the newest."""
    sign = {"min": -1, "max": 1}[mode]
    ranked = sorted((sign * entry.score, step) for step, entry in entries.items() if entry.score is not None)
    return [step for _, step in reversed(ranked)]


def kept(entries: Entries, last: int, best: int, mode: str) -> set[int]:
    """The steps to keep: the newest `last`, and the `best` with the best scores."""
    return {*sorted(entries, reverse=True)[:last], *by_score(entries, mode)[:best]}


class EarlierVersionError(ValueError):
    """A checkpoint that is whole, but of a version whose checkpoints cannot be verified."""


def _checksum(content: Mapping[str, Any]) -> str:
    # As it is read again: tuples have become lists, keys have become strings.
    plain = json.loads(json.dumps(content))
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()
