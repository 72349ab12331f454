"""The timeline of a run: how its wall time was spent."""

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path

from research import files

KINDS = ("start", "compile", "data", "step", "eval", "save", "lost")


class Timeline:
    """Appends `{"kind", "start", "seconds", "step"}` lines; `start` is Unix time, `step` that after the interval."""

    def __init__(self, path: Path | None):
        """With None nothing is written, as on processes other than process 0."""
        if path:
            files.end_line(path)
        self._file = path.open("a", buffering=1) if path else None

    def add(self, kind: str, start: float, seconds: float, step: int) -> None:
        """Records an interval."""
        if kind not in KINDS:
            raise ValueError(f"unknown kind of interval {kind!r}; choose from {', '.join(KINDS)}")
        if self._file:
            entry = {"kind": kind, "start": round(start, 3), "seconds": round(seconds, 6), "step": step}
            self._file.write(json.dumps(entry) + "\n")

    @contextlib.contextmanager
    def measure(self, kind: str, step: int) -> Iterator[None]:
        """Context manager: records the time spent inside."""
        start = time.time()
        yield
        self.add(kind, start, time.time() - start, step)


def read(path: Path) -> list[dict]:
    """The entries of a timeline file; damaged or truncated lines are skipped."""
    return files.read_json_lines(path, _is_entry)[0]


def lost_seconds(entries: list[dict], restored_step: int) -> float:
    """Seconds of training and evaluation after `restored_step` that a restart must repeat, unless already recorded."""
    since = max((index + 1 for index, entry in enumerate(entries) if entry["kind"] == "lost"), default=0)
    again = [e for e in entries[since:] if e["kind"] in ("data", "step", "eval") and e["step"] > restored_step]
    return sum(entry["seconds"] for entry in again)


def seconds_by_kind(entries: list[dict]) -> dict[str, float]:
    """The sum of each kind, largest first."""
    seconds: dict[str, float] = {}
    for entry in entries:
        seconds[entry["kind"]] = seconds.get(entry["kind"], 0.0) + entry["seconds"]
    return dict(sorted(seconds.items(), key=lambda item: -item[1]))


def goodput(entries: list[dict]) -> float:
    """The fraction of a run's wall time, over all restarts, spent in training steps whose results were kept.

    Steps lost by a restart count as not kept; time between a kill and the next start is not recorded.
    """
    seconds = seconds_by_kind(entries)
    lost = seconds.pop("lost", 0.0)
    return max(0.0, seconds.get("step", 0.0) - lost) / max(sum(seconds.values()), 1e-9)


def _is_entry(entry: dict) -> bool:
    numbers = all(isinstance(entry.get(key), int | float) for key in ("start", "seconds", "step"))
    return entry.get("kind") in KINDS and numbers
