"""`tessera evaluate --follow`: scores the checkpoints of a run on validation while another process trains it.

It only reads the run directory, on a disk or in a bucket, but for `follow.jsonl` and a lock of its own. So it may run
on another machine, be killed and started again; a checkpoint is scored once.
"""

import json
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, cast

from etils import epath

from research import command, files
from research.checkpoint import seal
from research.parallel import processes
from research.spec.contracts import DataT, Task
from research.train import lock, result, rundir
from research.train.program import TrainState
from research.train.session import Session
from research.train.settings import Experiment

FILE = "follow.jsonl"  # one line for each scored checkpoint: {"step", "digest", "metrics", "seconds", "date"}
LOCK = "follow.lock"
POLL_S = 10.0
ATTEMPTS = 3  # to read a checkpoint, since in a bucket it appears before it is complete
SPLIT = "validation"


def wait_for_run(workdir: str, timeout_s: float | None, say: Callable[[str], None]) -> None:
    """Returns once the run in `workdir` has a config and a checkpoint.

    Raises Failure after `timeout_s` seconds without them.
    """
    root, begun, told = rundir.RunDirectory(workdir).root, time.monotonic(), False
    while not ((root / "config.json").exists() and seal.steps(epath.Path(root) / "checkpoints")):
        if timeout_s is not None and time.monotonic() - begun >= timeout_s:
            raise command.Failure(f"{workdir} has no checkpoint after --timeout={timeout_s:g} s; is the run going on?")
        if not told:
            say(f"waiting for the first checkpoint in {workdir}")
            told = True
        time.sleep(POLL_S)


class Scores:
    """The entries of a `follow.jsonl`, on a disk or in a bucket; those of one config are told apart by its digest."""

    def __init__(self, path: rundir.AnyPath, digest: str):
        """Reads what an earlier process has written; a damaged line is dropped, so that its step is scored again."""
        self._path, self._digest = path, digest
        lines = path.read_bytes().splitlines() if path.exists() else []
        self._entries = [entry for line in lines if (entry := _entry(line)) is not None]

    @property
    def of_config(self) -> dict[int, dict[str, Any]]:
        """The metrics by step."""
        return {entry["step"]: entry["metrics"] for entry in self._entries if entry["digest"] == self._digest}

    def add(self, step: int, metrics: dict[str, float], seconds: float) -> None:
        """Adds a line and replaces the file, atomically on a disk and in a bucket, where nothing can be appended."""
        entry = {"step": step, "digest": self._digest, "metrics": rundir.finite(metrics), "seconds": round(seconds, 1)}
        self._entries.append(entry | {"date": time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime())})
        text = "".join(json.dumps(each) + "\n" for each in self._entries)
        if isinstance(self._path, Path):
            files.write_atomically(self._path, text)
        else:
            self._path.write_bytes(text.encode())


def _entry(line: bytes) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) and {"step", "digest", "metrics"} <= entry.keys() else None


def look(root: rundir.AnyPath, done: str, known: Collection[int]) -> tuple[bool, list[int]]:
    """Whether the run in `root` has the file `done`, and the steps of its checkpoints that are not `known`.

    In this order: what is saved between the two looks is found now or next time.
    """
    finished = (root / done).exists()
    return finished, [step for step in seal.steps(epath.Path(root) / "checkpoints") if step not in known]


class Follower:
    """Scores every checkpoint of a run until the run is finished.

    With several processes all of them take part, and process 0 writes.
    """

    def __init__(self, config: Experiment, task: Task[DataT], data: DataT, workdir: str):
        self._session = Session(config, task, data, workdir).opened()
        data.prepare()
        self._failures: dict[int, int] = {}  # step -> how often it could not be read
        self._scores = Scores(self._session.workdir / FILE, config.source.digest)

    def follow(self, timeout_s: float | None = None) -> dict[str, Any]:
        """Returns the step and the metrics of the last checkpoint.

        Raises ValueError if another process follows the run, and Failure after `timeout_s` seconds without a new
        checkpoint, or if none can be read.
        """
        session, held = self._session, lock.Lock(self._session.workdir, self._session.say, LOCK)
        if processes.is_main():
            held.take()
        try:
            self._follow(timeout_s)
        finally:
            held.release()
            session.checkpoints.close()
        found = self._scores.of_config
        if not found:
            raise command.Failure(f"{session.name} is finished, but none of its checkpoints could be read")
        return {"step": max(found), "metrics": found[max(found)]}

    def _follow(self, timeout_s: float | None) -> None:
        latest = time.monotonic()
        while True:
            finished, steps = processes.broadcast_from_main(self._look() if processes.is_main() else None)
            if finished and not steps:
                return
            if any([self._score(step) for step in steps]):  # a list, since all of them are scored
                latest = time.monotonic()
                continue
            late = timeout_s is not None and time.monotonic() - latest >= timeout_s
            if processes.broadcast_from_main(late):
                raise command.Failure(f"{self._session.name} has no new checkpoint after --timeout={timeout_s:g} s")
            time.sleep(POLL_S)

    def _look(self) -> tuple[bool, list[int]]:
        lost = {step for step, count in self._failures.items() if count >= ATTEMPTS}
        done = "result.json" if self._session.settings.test else result.SELECTED
        return look(self._session.workdir, done, self._scores.of_config.keys() | lost)

    def _score(self, step: int) -> bool:
        """Scores a checkpoint; False if it is gone or damaged."""
        session, begun = self._session, time.monotonic()
        restored = session.checkpoints.restore_step(session.program, step)
        if restored is None:
            self._failures[step] = self._failures.get(step, 0) + 1
            return False
        state, meta = restored
        session.check_config(meta)
        session.check_data(meta)
        values = session.score_split(cast(TrainState, state), SPLIT, session.task.scorer(session.data, SPLIT))
        if values is None:
            session.leave(None)
        if processes.is_main():
            self._scores.add(step, values, time.monotonic() - begun)
        session.say(f"step {step}: " + ", ".join(f"{name} {value:.4f}" for name, value in values.items()))
        return True
