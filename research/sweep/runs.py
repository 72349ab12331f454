"""The runs of a sweep and their progress, which is read from their folders only.

SWEEP/sweep.json            the parsed sweep file
SWEEP/ranking.json          the ranking that `tessera sweep` printed
SWEEP/003_seed1/            the run directory of trial 3 with seed 1
SWEEP/003_seed1.log         the output of its process
SWEEP/003_seed1.claim       the sweep command that trains it, of several on one sweep; only while it does
SWEEP/003_seed1/stopped.json    the rule that stopped it early
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from research.sweep.settings import Sweep
from research.sweep.stopping import Point
from research.train import result, rundir
from research.train.lock import Lock

PLAN = "sweep.json"
STOPPED = "stopped.json"


class Run(NamedTuple):
    """One trial with one seed, and its run directory."""

    trial: int
    seed: int
    folder: Path

    @property
    def log(self) -> Path:
        """The file with the output of its process."""
        return self.folder.with_name(f"{self.folder.name}.log")


class State(NamedTuple):
    """The progress of a run.

    status    "finished", "stopped" (early) or "open" (not started or not finished)
    value     the metric of the selected checkpoint, or of the best evaluation of a stopped run; None for an open run
    step      the step of `value`; for an open run, of the latest evaluation
    points    the evaluations so far
    """

    status: str
    value: float | None
    step: int
    points: list[Point]


def all_of(sweep: Sweep, root: Path) -> list[Run]:
    """All runs, ordered by seed, so that every trial is run with the first seed before the second one starts."""
    return [
        Run(trial, seed, root / f"{trial:03d}_seed{seed}") for seed in sweep.seeds for trial in range(len(sweep.trials))
    ]


def state(run: Run, metric: str, mode: str) -> State:
    """Reads the state of a run. Raises ValueError for a finished run without the metric."""
    entries = rundir.read_metrics(run.folder / "metrics.jsonl")
    named = (each for each in entries if each["name"] == metric and each["value"] is not None)
    points = [Point(each["step"], each["value"]) for each in named]
    selected = _json(run.folder / result.SELECTED)
    if selected is not None:
        if metric not in selected["metrics"]:
            known = ", ".join(sorted(selected["metrics"])) or "none, since it has no validation split"
            raise ValueError(f"metric={metric!r} is not measured by {run.folder}; choose from {known}")
        return State("finished", selected["metrics"][metric], selected["step"], points)
    if _json(run.folder / STOPPED) is not None:
        best = (max if mode == "max" else min)(points, key=lambda point: point.value, default=None)
        return State("stopped", best and best.value, best.step if best else 0, points)
    return State("open", None, points[-1].step if points else 0, points)


def claim_of(run: Run) -> Lock:
    """The lock that a sweep command holds while it trains a run."""
    return Lock(run.folder.parent, name=f"{run.folder.name}.claim")


def mark_stopped(run: Run, step: int, reason: str) -> None:
    """Writes to disk that a rule has stopped a run."""
    rundir.write_json(run.folder / STOPPED, {"step": step, "reason": reason})


def is_scored(run: Run) -> bool:
    """Whether a run has been scored on test."""
    return _json(run.folder / "result.json") is not None


def open_folder(root: Path, sweep: Sweep) -> None:
    """Writes the sweep to its folder, new or existing. Raises ValueError for the folder of another sweep."""
    check_folder(root, sweep)
    rundir.write_json(root / PLAN, _as_json(sweep))


def check_folder(root: Path, sweep: Sweep) -> None:
    """Raises ValueError if a folder belongs to another sweep, or to none.

    To an existing sweep, trials may be appended and seeds added; without early stopping, another metric may be chosen.
    """
    before, now = _json(root / PLAN), _as_json(sweep)
    if before is not None:
        free = ["trials", "seeds"] + (["metric"] if not sweep.stop.median and not sweep.stop.patience else [])
        changed = [key for key in now if key not in free and before.get(key) != now[key]]
        if before["trials"] != now["trials"][: len(before["trials"])]:
            changed.append("trials")
        if not set(before["seeds"]) <= set(now["seeds"]):
            changed.append("seeds")
        if changed:
            raise ValueError(
                f"--workdir={root} belongs to another sweep: {', '.join(sorted(changed))} differ; only append "
                "trials or add seeds, or choose another --workdir"
            )
    elif root.is_dir() and any(root.iterdir()):
        known = [each.name for each in root.iterdir() if each.name != "run.lock"]
        if known:
            raise ValueError(
                f"--workdir={root} is not a sweep folder: it has {sorted(known)[0]}; choose another folder"
            )


def _as_json(sweep: Sweep) -> dict[str, Any]:
    return json.loads(json.dumps(dataclasses.asdict(sweep)))


def last_line(log: Path) -> str:
    """The last non-empty line of a log."""
    lines = [line.strip() for line in log.read_text("utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "it printed nothing"


def names(runs: Sequence[Run]) -> str:
    """`003_seed0, 003_seed1`."""
    return ", ".join(run.folder.name for run in runs)


def _json(path: Path) -> dict[str, Any] | None:
    """The content of a JSON file; None if it is missing or damaged, so that the run is repeated."""
    try:
        return rundir.read_json(path)
    except (OSError, ValueError):
        return None
