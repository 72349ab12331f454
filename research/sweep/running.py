"""Runs a sweep: each run in a separate process, several concurrently; resumes after a kill.

Several commands, also on machines that share a disk, may work on one sweep: each claims a run before it starts it, and
waits at the end for the runs of the others.
"""

import contextlib
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from research.command import Failure
from research.sweep import runs as runs_lib
from research.sweep import stopping
from research.sweep.runs import Run, State
from research.sweep.settings import Sweep
from research.train import preemption
from research.train.lock import Lock

POLL_S = 0.5


class Runner:
    """Trains the runs of a sweep.

    Args:
        sweep: The sweep.
        root: Its folder.
        metric, mode: The metric by which settings are chosen, and "max" or "min".
        train: The arguments of the train command, before `--config=`.
        processes: The number of concurrent runs.
        say: Called with progress messages.
    """

    def __init__(
        self,
        sweep: Sweep,
        root: Path,
        metric: str,
        mode: str,
        train: Sequence[str],
        processes: int = 1,
        say: Callable[[str], None] = print,
    ):
        self._sweep, self._train, self._processes, self._say = sweep, list(train), processes, say
        self._metric, self._mode = metric, mode
        self.runs = runs_lib.all_of(sweep, root)
        self.failed: dict[Run, str] = {}  # run -> the last line of its process
        self._finished: dict[Run, State] = {}
        self._active: dict[Run, subprocess.Popen] = {}
        self._claims: dict[Run, Lock] = {}
        self._begun: dict[Run, float] = {}

    def state(self, run: Run) -> State:
        """The progress of a run; that of a finished one is read once, since it does not change."""
        if run not in self._finished:
            state = runs_lib.state(run, self._metric, self._mode)
            if state.status != "finished":
                return state
            self._finished[run] = state
        return self._finished[run]

    def train(self) -> None:
        """Trains every unfinished run, without evaluation on test.

        The remaining seeds of a trial that failed or was stopped are skipped. Raises ValueError for user errors (exit
        code 2 of a run), and SystemExit with code 75 after SIGTERM.
        """
        self._run_all([run for run in self.runs if self.state(run).status == "open"], test=False)

    def score(self, trial: int) -> list[Run]:
        """Scores the runs of a trial on test, once, and returns them."""
        chosen = [run for run in self.runs if run.trial == trial]
        self._run_all([run for run in chosen if not runs_lib.is_scored(run)], test=True)
        if lost := [run for run in chosen if run in self.failed]:
            raise Failure(f"{runs_lib.names(lost)} could not be scored on test: {self.failed[lost[0]]}")
        return chosen

    def _run_all(self, waiting: list[Run], test: bool) -> None:
        busy: set[Run] = set()
        with self._ended_together():
            while waiting or self._active:
                for run in list(waiting):
                    if len(self._active) >= self._processes:
                        break
                    if runs_lib.is_scored(run) if test else self._is_out(run):
                        waiting.remove(run)
                    elif self._claim(run, test):
                        waiting.remove(run)
                        self._start(run, test)
                    elif run not in busy:
                        busy.add(run)
                        self._say(f"{run.folder.name} is being trained by another process; waiting for its end")
                time.sleep(POLL_S)
                waiting += [run for run in list(self._active) if self._poll(run, test)]
        for run in self.runs:
            self._remove_abandoned_claim(run)

    def _is_out(self, run: Run) -> bool:
        """Whether a run is finished, or another seed of its trial failed or was stopped."""
        if self.state(run).status != "open":  # another process may have finished it meanwhile
            return True
        others = (other for other in self.runs if other.trial == run.trial and other != run)
        return any(other in self.failed or self.state(other).status == "stopped" for other in others)

    def _claim(self, run: Run, test: bool) -> bool:
        """Whether this command may start a run: no other one has claimed it, and no process trains it.

        One may train it although nobody has claimed it, if its sweep was killed. A run that another command has
        finished meanwhile needs no start.
        """
        claim = runs_lib.claim_of(run)
        try:
            claim.take()
        except ValueError:
            return False
        out = runs_lib.is_scored(run) if test else self._is_out(run)
        if out or _is_locked(run):
            claim.release()
            return False
        self._claims[run] = claim
        return True

    def _remove_abandoned_claim(self, run: Run) -> None:
        """Removes the claim that a killed command left; nobody else would, once the run is finished."""
        claim = runs_lib.claim_of(run)
        if claim.exists():
            with contextlib.suppress(ValueError):  # another command works on it
                claim.take()
                claim.release()

    def _start(self, run: Run, test: bool) -> None:
        overrides = [*self._sweep.overrides(run.trial, run.seed), f"train.test={str(test).lower()}"]
        words = [*self._train, f"--config={self._sweep.config}", *(f"--config.{each}" for each in overrides)]
        with run.log.open("ab") as log:
            process = subprocess.Popen([*words, f"--workdir={run.folder}"], stdout=log, stderr=subprocess.STDOUT)
        self._active[run], self._begun[run] = process, time.monotonic()
        shown = " ".join(self._sweep.trials[run.trial]) or "unchanged config"
        self._say(f"{run.folder.name} {'is scored on test' if test else 'started'}: {shown}")

    def _poll(self, run: Run, test: bool) -> bool:
        """Handles the end of the process of a run, if it has ended; whether the run is to be tried again."""
        process = self._active[run]
        code = process.poll()
        if code is None:
            if not test:
                self._apply_rules(run, process)
            return False
        del self._active[run]
        self._claims.pop(run).release()
        state, seconds = self.state(run), time.monotonic() - self._begun[run]
        if code == 0:
            if not test:
                self._say(f"{run.folder.name} finished after {seconds:.0f} s: {self._metric} {_shown(state.value)}")
        elif state.status == "stopped":
            self._say(f"{run.folder.name} stopped after {seconds:.0f} s: {self._metric} {_shown(state.value)} at best")
        elif code == 2 and (_is_locked(run) or (not test and state.status == "finished")):
            return True  # a process of a sweep that was killed had begun it, but not locked it yet
        elif code == 2:
            raise ValueError(f"{run.folder.name}: {runs_lib.last_line(run.log)}")
        elif code in (preemption.EXIT_CODE, -signal.SIGTERM):
            raise SystemExit(preemption.EXIT_CODE)
        elif code in (130, -signal.SIGINT):
            raise KeyboardInterrupt
        else:
            self.failed[run] = runs_lib.last_line(run.log)
            self._say(f"{run.folder.name} failed with code {code}, see {run.log}: {self.failed[run]}")
        return False

    def _apply_rules(self, run: Run, process: subprocess.Popen) -> None:
        if self._sweep.stop.median or self._sweep.stop.patience:
            state = self.state(run)
            finished = [
                other.points
                for each in self.runs
                if each.seed == run.seed and (other := self.state(each)).status == "finished"
            ]
            why = stopping.reason(self._sweep.stop, self._mode, state.points, finished)
            if why and state.status == "open":
                runs_lib.mark_stopped(run, state.step, why)
                self._say(f"{run.folder.name}: {why}")
                process.terminate()  # it saves a checkpoint first

    @contextlib.contextmanager
    def _ended_together(self) -> Iterator[None]:
        """On an error, Ctrl-C or SIGTERM, terminates the processes, which save, and waits for them."""

        def terminated(*_: Any) -> None:
            raise SystemExit(preemption.EXIT_CODE)

        before = signal.signal(signal.SIGTERM, terminated)
        try:
            yield
        finally:
            for process in self._active.values():
                process.terminate()
            for process in self._active.values():
                process.wait()
            self._active.clear()
            for claim in self._claims.values():
                claim.release()
            self._claims.clear()
            signal.signal(signal.SIGTERM, before)


def _shown(value: float | None) -> str:
    return "is not finite" if value is None else f"{value:.4f}"


def _is_locked(run: Run) -> bool:
    """Whether another process trains the run, such as one started by an earlier sweep that was killed."""
    lock = Lock(run.folder)
    if not (run.folder / "run.lock").exists():
        return False
    try:
        lock.take()
    except ValueError:
        return True
    lock.release()
    return False
