"""An open run directory with its program, data and logs. It evaluates; `trainer.TrainingRun` trains."""

import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, NoReturn, Protocol, Self, cast

import jax

from research import config as config_lib
from research import numerics
from research.checkpoint.store import Checkpoints
from research.measure import profile, progress
from research.measure.timeline import Timeline
from research.parallel import mesh as mesh_lib
from research.parallel import processes
from research.spec.contracts import DataT, Scorer, Task
from research.tracking import base as tracking
from research.train import lock, preemption, reporting, result, rundir
from research.train.evaluation import evaluate
from research.train.feed import check_batch
from research.train.program import ShardedProgram, TrainState, build_program
from research.train.samples import Samples
from research.train.settings import Experiment, TrainSpec


class InitialWeights(Protocol):
    """Initial weights of a new run; see `interop/initial_weights.py`."""

    def check_with_data(self) -> None:
        """Raises ValueError if they do not fit the data, which are prepared by now."""
        ...

    def state(self, state: TrainState) -> TrainState:
        """The initial `state` with these weights."""
        ...

    def lines(self) -> list[str]:
        """Messages about how each parameter was initialised."""
        ...

    def report(self) -> Mapping[str, object]:
        """The content of `init_from.json` in the run directory: how each parameter was initialised."""
        ...


class LoadWeights(Protocol):
    """Loads the weights of `config.train.init_from`."""

    def __call__(
        self, settings: TrainSpec, task: Task[DataT], program: ShardedProgram, data: DataT, /
    ) -> InitialWeights:
        """Loads the weights before the data are prepared. Raises ValueError if they do not fit."""
        ...


def build(
    config: Experiment,
    task: Task[DataT],
    devices: Sequence[jax.Device] | None = None,  # pyright: ignore[reportInvalidTypeForm]  jaxlib has no stubs
    teacher: Any = None,
) -> ShardedProgram:
    """The program of a config on `devices` (default: those attached), with its precision, mesh and batch checked.

    With `teacher`, the task of another run, its step distils.

    Raises ValueError if one of them does not fit, and on a CPU on which XLA computes wrong results.
    """
    numerics.check()
    for field, dtype in config_lib.plain(config.precision).items():
        if dtype == "float64" and not jax.config.read("jax_enable_x64"):
            raise ValueError(f"config.precision.{field}='float64' needs JAX_ENABLE_X64=1 in the environment")
    mesh = mesh_lib.make_mesh(config.mesh.sizes, devices)
    check_batch(config.train, mesh, config.privacy.poisson)
    return build_program(config, task, mesh, teacher)


class Session(Generic[DataT]):
    """A run directory with its program, data and logs, once `opened`; it is written only with `write`."""

    def __init__(
        self,
        config: Experiment,
        task: Task[DataT],
        data: DataT,
        workdir: str | Path,
        write: bool = False,
        teacher: Any = None,
    ):
        self.config, self.task, self.data, self.settings = config, task, data, config.train
        self.name, self.writes = str(workdir), write
        self.log = progress.Log() if write else None  # asking for the process index here would start JAX too early
        rundir.check_workdir(workdir, write)
        self.folder = rundir.RunDirectory(workdir)
        self.workdir = self.folder.root
        self.revision = result.revision()  # at the start, since the working tree may change during the run
        self.reported = reporting.of_source(config.source) if write else {}  # and so may the config file
        self.program = build(config, task, teacher=teacher)
        self.lock = lock.Lock(self.workdir, self.say)
        self.validated: dict[int, dict[str, float]] = {}  # step -> the metrics of its evaluation

    def opened(self) -> Self:
        """This session, with its data prepared (with `write`), its logs and its checkpoints open.

        Raises ValueError, before anything is written to the run directory, for a config, weights or data that do not
        fit, or a directory of another run.
        """
        checkpoints = self.workdir / "checkpoints"
        open_run_dir = functools.partial(
            rundir.open_run_dir, self.folder.files, self.config, name=self.name, inference=not self.writes,
            checkpoints=checkpoints, warn=self.say,
        )  # fmt: skip
        if self.writes:
            tracking.check(self.settings.trackers, login=processes.is_main())
            self.check()
        elif not checkpoints.exists():
            raise ValueError(f"{self.name} has no checkpoint; train it first with --mode=train")
        self.changed = open_run_dir(write=False)
        if self.writes:
            self.find_weights()
            self.info = self.data.prepare()
            self.check_with_data()
            self._take_lock()
        try:
            self._open(processes.is_main() and self.writes, open_run_dir)
        except BaseException:
            self.release()
            raise
        return self

    def release(self) -> None:
        """Releases the lock of the directory and closes the log."""
        self.lock.release()
        if self.log:
            self.log.close()

    def _take_lock(self) -> None:
        """Locks the directory on process 0. Raises ValueError on all processes if that fails."""
        refusal = None
        if processes.is_main():
            try:
                with rundir.writing(self.workdir):
                    if isinstance(self.workdir, Path):
                        self.workdir.mkdir(parents=True, exist_ok=True)
                    self.lock.take()
            except ValueError as error:
                refusal = error
        if processes.broadcast_from_main(float(refusal is not None)):
            raise refusal or ValueError(f"process 0 could not lock {self.workdir}; see its error")

    def _open(self, main: bool, open_run_dir: Callable[..., list[str]]) -> None:
        """Opens the logs, which only the process `main` writes, and the checkpoints."""
        files = self.folder.files
        if main and self.log:
            open_run_dir(write=True, warn=lambda line: None)  # again, under the lock
            self.log.open(files / "run.log")
        elif self.log:  # only process 0 writes one
            self.log.close()
        self.timeline = Timeline(files / "timeline.jsonl" if main else None)
        settings = self.settings
        self.metrics = rundir.Metrics(
            files, main, self.say, settings.trackers, self.workdir.name, config_lib.plain(self.config)
        )
        mode = self.task.selection[1]
        self.checkpoints = Checkpoints(
            str(self.workdir / "checkpoints"), self.settings.keep_last, self.settings.keep_best, mode,
            warn=self.say, write=self.writes,
        )  # fmt: skip
        self.samples = None
        if self.writes and settings.samples and settings.trackers:
            self.samples = Samples(self.config, self.program, self.task, self.data, self.say)
        self.stop = preemption.Flag(shared=jax.process_count() > 1)
        self.profile = profile.Profile(self.settings.profile if main else "", files / "events")

    def check(self) -> None:
        """Further checks of the config, before data are prepared."""

    def find_weights(self) -> None:
        """Finds the initial weights, before data are prepared."""

    def check_with_data(self) -> None:
        """Further checks with the data, before anything is written to the run directory."""

    def say(self, line: str) -> None:
        """Prints a line to standard error, above the progress bar."""
        if processes.is_main():
            progress.say(line)

    def score_split(self, state: TrainState, split: str, scorer: Scorer | None = None) -> dict[str, float] | None:
        """See `evaluation.evaluate`; None if SIGTERM comes before the end."""
        return evaluate(
            self.program, self.task, self.data, state.evaluated, split, self.settings.eval_batch_size,
            stop=self.stop.poll, scorer=scorer, seed=self.config.seed,
        )  # fmt: skip

    def leave(self, step: int | None) -> NoReturn:
        """Exits with code 75 after SIGTERM; `step` is the saved one, None if there was no new step."""
        self.checkpoints.close()
        self.metrics.close()
        self.folder.push()
        saved = "there is nothing new to save" if step is None else f"saved step {step}"
        self.say(f"SIGTERM: {saved}; run the same command to continue")
        sys.exit(preemption.EXIT_CODE)

    def evaluate(self) -> dict[str, Any]:
        """Scores the selected checkpoint of a trained run on validation and test; writes only prepared data."""
        self.data.prepare()
        step, state = self.restore_selected()
        values = {}
        for split in ("validation", "test"):
            scores = self.score_split(state, split, self.task.scorer(self.data, split))
            if scores is None:
                self.leave(None)
            values |= scores
        self.checkpoints.close()
        return {"step": step, "metrics": values}

    def restore_selected(self) -> tuple[int, TrainState]:
        """The step and the state of the checkpoint selected by `config.train.select`."""
        best = self.settings.select == "best"
        restored = self.checkpoints.restore(self.program, best)
        if restored is None:
            raise ValueError(f"{self.workdir} has no readable checkpoint; train it first with --mode=train")
        step, state, meta = restored
        if best and not self.checkpoints.has_score(step):
            self.say(f"no checkpoint has a finite score; the newest, step {step}, is used")
        self.check_config(meta)
        self.validated[step] = meta.get("validation", {})
        if self.data.is_prepared:  # prediction works without the data set
            self.check_data(meta)
        return step, cast(TrainState, state)

    def check_config(self, meta: dict[str, Any]) -> None:
        """Raises ValueError if the config of the checkpoint with this `meta` differs from that of this run."""
        _, refused = config_lib.differences(meta["config"], self.config, inference=not self.writes)
        if refused:
            raise rundir.another_config(self.name, f", by checkpoint {meta['step']}", refused)

    def check_data(self, meta: dict[str, Any]) -> None:
        """Raises ValueError if the checkpoint with this `meta` was trained on other data."""
        if meta["data_fingerprint"] not in (None, self.data.fingerprint):  # None: imported weights
            raise ValueError(
                f"{self.workdir} was trained on other data: fingerprint {meta['data_fingerprint']}, not "
                f"{self.data.fingerprint}; restore the data or choose another --workdir"
            )
