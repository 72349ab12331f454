"""The trainer of all experiments: `run` trains and evaluates."""

import contextlib
import functools
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from research.checkpoint import interrupts
from research.checkpoint.frozen import FrozenError
from research.checkpoint.store import has_steps
from research.command import FULL, Failure
from research.files import sealed
from research.measure import flops, progress
from research.measure.chips import chip_of
from research.measure.clock import Clock, describe
from research.measure.timeline import lost_seconds, read
from research.parallel import processes
from research.spec.contracts import Batch, DataDependent, DataT, Task, Variables
from research.train import preemption, result, rundir, summary
from research.train.ahead import BackgroundCompile
from research.train.feed import batch_rows, to_mesh, train_batches
from research.train.predictor import Predictor, predict
from research.train.privacy import Spending
from research.train.program import TrainState, with_values
from research.train.session import InitialWeights, LoadWeights, Session, build
from research.train.settings import Experiment
from research.train.teaching import LoadTeacher, OptionalTeacher

__all__ = ["InitialWeights", "LoadWeights", "Predictor", "TrainingRun", "build", "predict", "run"]

_INTERRUPTED_S = 60  # how long Ctrl-C waits for a checkpoint that is being saved


def run(
    mode: str,
    config: Experiment,
    task: Task[DataT],
    data: DataT,
    workdir: str,
    load_weights: LoadWeights | None = None,
    load_teacher: LoadTeacher | None = None,
) -> dict[str, Any] | None:
    """Trains to the end, or evaluates a trained run.

    The same command resumes a run that was killed, bit for bit. After SIGTERM to any process, all processes save the
    same step and exit with code 75.

    `load_weights` reads the weights that `config.train.init_from` names, `load_teacher` the run that
    `config.distill.teacher` names.

    Returns the content of `result.json` on process 0; None on others, and with `config.train.test=false`. Raises
    ValueError for user errors, before anything is compiled or written.
    """
    if mode != "train":
        return Session(config, task, data, workdir).opened().evaluate()
    training = TrainingRun(config, task, data, workdir, load_weights, load_teacher).opened()
    try:
        content = training.train()
    except Exception as error:
        if training.log:
            training.log.write(f"error: {error}")
        raise
    finally:
        training.release()
    return content


class TrainingRun(Session[DataT]):
    """A session that trains and writes."""

    def __init__(
        self,
        config: Experiment,
        task: Task[DataT],
        data: DataT,
        workdir: str | Path,
        load_weights: LoadWeights | None = None,
        load_teacher: LoadTeacher | None = None,
    ):
        self.teacher = OptionalTeacher[DataT](config, task, load_teacher)
        super().__init__(config, task, data, workdir, write=True, teacher=self.teacher.task)
        self._load_weights, self.privacy = load_weights, Spending(config)
        self.weights: InitialWeights | None = None
        self._logged = 0  # the newest step that was logged before this process began
        self.reading = contextlib.ExitStack()  # ends the data workers; at interpreter exit they would fail

    def check(self) -> None:
        """Raises ValueError if evaluations while training lack the metric that selects checkpoints."""
        example = self.task.example(self.settings.eval_batch_size)
        sums = jax.eval_shape(self.program.eval_step, self.program.state.evaluated, example)
        means = {metric: np.ones(total.shape) for metric, (total, _) in sums.items()}
        known = {metric for metric, mean in means.items() if not np.ndim(mean)} | self.task.derived(means).keys()
        self.task.check_selection(known, scored=self.settings.score == "all")

    def find_weights(self, again: bool = False) -> None:
        """Finds the initial weights, unless the run has checkpoints already; with `again`, even then.

        Raises ValueError if they do not fit.
        """
        path = self.settings.init_from
        if not path or (has_steps(self.workdir / "checkpoints") and not again):
            return
        if self._load_weights is None:
            raise ValueError(f"config.train.init_from={path!r} is not supported by this experiment; leave it empty")
        self.weights = self._load_weights(self.settings, self.task, self.program, self.data)

    def check_with_data(self) -> None:
        """Raises ValueError if predictions for the data cannot be scored, or the initial weights do not fit them."""
        self.task.scorer(self.data, "test")
        if self.settings.score == "all":
            self.task.scorer(self.data, "validation")
        if self.weights is not None:
            self.weights.check_with_data()
        self.teacher.check_with_data(self.data)
        self.privacy.check_with_data(self.data)

    def train(self) -> dict[str, Any] | None:
        """See `run`. On errors and Ctrl-C, it waits for a checkpoint that is being saved; a second Ctrl-C aborts."""
        try:
            return self._train()
        except Exception as error:
            # Closing would wait for processes that are gone.
            if not processes.lost_another(error):
                self._close(None)
            if isinstance(error, OSError) and error.errno in FULL:
                raise Failure(f"cannot write to {self.workdir}: {error.strerror}; {self._newest()}") from error
            raise
        except KeyboardInterrupt:
            self._close(_INTERRUPTED_S)
            raise
        finally:
            self.reading.close()

    def _close(self, seconds: float | None) -> None:
        """Ends background work after an error, without raising another one."""
        with interrupts.last(seconds), contextlib.suppress(Exception):
            self.checkpoints.close()
        with contextlib.suppress(Exception):
            self.metrics.close()
            if self.lock.held:  # else another run has taken over the folder
                self.folder.push()

    def _train(self) -> dict[str, Any] | None:
        done = self.folder.files / "result.json"
        started = time.time()
        state, step, train_step = self._restore_or_init()
        if step == self.settings.steps and done.exists():
            try:
                content = rundir.read_json(done)
            except ValueError as error:
                self.say(f"{error}; it is written again")
            else:
                self.say(f"{self.workdir} is finished; result.json is unchanged")
                return content
        if processes.is_main():
            done.unlink(missing_ok=True)
        if self.stop.poll():
            self.leave(None)
        for line in (*summary.lines(self.config, self.program, self.info, step), *self.teacher.lines()):
            self.say(line)
        teacher = self.teacher.variables(self.program.teacher)
        # Not before: a finished run keeps the test scores in its metrics.
        evaluated = step > 0 and self.checkpoints.was_evaluated(step)
        self.metrics.resume(step, evaluated=evaluated, logged=self._logged)
        if step and self._evaluation_due(step) and not evaluated:
            self._evaluate_and_save(state, step, {})
        self.timeline.add("start", started, time.time() - started, step)
        with jax.transfer_guard("disallow"):
            state = self._steps(state, step, train_step, teacher)
        return self._finish(state)

    def _restore_or_init(self):
        """The initial state (of the latest intact checkpoint, or new), its step, and the compiling train step."""
        if jax.process_count() == 1:
            preemption.exit_on_sigterm(self.metrics.flush)
        for line in self.changed:
            self.say(f"the config has changed since the run began: {line}")
        restored = self._restored()
        if restored is None:
            train_step = self._compile_in_background()
            self._record_data()
            return self._begin(), 0, train_step
        step, state, meta = restored
        self.check_config(meta)
        self.check_data(meta)
        self.teacher.check(meta)
        self._record_data()
        self.validated[step] = meta.get("validation", {})
        self._logged = step - step % meta["config"]["train"]["log_every"]
        if step > self.settings.steps:
            raise ValueError(f"{self.workdir} is at step {step}; raise config.train.steps={self.settings.steps}")
        lost = lost_seconds(read(self.folder.files / "timeline.jsonl"), step)
        self.timeline.add("lost", time.time(), lost, step)
        self.checkpoints.retain()
        if step < self.settings.steps or not (self.folder.files / "result.json").exists():
            self.say(f"continuing at step {step}")
        return state, step, self._compile_in_background() if step < self.settings.steps else None

    def _restored(self):
        """The latest intact checkpoint. Frozen parameters that are damaged are taken from where they came from."""
        try:
            return self.checkpoints.restore(self.program)
        except FrozenError as error:
            self.find_weights(again=True)
            if not self.checkpoints.rebuild(self.program, self._begin(), error):
                raise
            self.say(f"{error.folder}, with the frozen parameters, was damaged; it is written again, bit for bit")
            return self.checkpoints.restore(self.program)

    def _record_data(self) -> None:
        """Writes the metadata of the data set, which prediction needs, into the run directory."""
        if processes.is_main():
            self.data.record(self.folder.files)

    def _begin(self) -> TrainState:
        """A new state, with initial values that depend on the data, and the weights of `config.train.init_from`."""
        state = self.program.init()
        if isinstance(self.task, DataDependent) and (values := self.task.from_data(self.data)):
            self.say(f"initial values from training data: {', '.join(values)}")
            state = with_values(state, values)
        if self.weights is None:
            return state
        for line in self.weights.lines():
            self.say(line)
        if processes.is_main():
            rundir.write_json(self.folder.files / "init_from.json", self.weights.report())
        return self.weights.state(state)

    def _compile_in_background(self) -> BackgroundCompile | None:
        """Compiles the train step in the background; not with several processes, which need one order of operations."""
        if jax.process_count() > 1:
            return None
        example = self.task.example(batch_rows(self.config, self.program.mesh))
        return BackgroundCompile(self.program.train_step, self.program.state, example, *self.program.teacher)

    def _steps(self, state, step: int, compilation: BackgroundCompile | None, teacher: tuple[Variables, ...]):
        settings, program = self.settings, self.program
        batches = train_batches(self.config, self.data, program.batch_sharding, step)
        self.reading.enter_context(contextlib.closing(batches))
        clock = Clock(self.timeline, step)
        first, pending, train_step = step, None, program.train_step
        bar = progress.bar(settings.steps, "training", "steps", initial=step, hidden=not processes.is_main())
        batch = to_mesh(next(batches), program.batch_sharding) if step < settings.steps else {}
        while step < settings.steps:
            if step == first:
                bar.set_postfix_str("compiling")
                with self.timeline.measure("compile", step):
                    train_step = compilation.result() if compilation else train_step
                    state, metrics = train_step(state, batch, *teacher)
                self.stop.watch()  # now there is something to save
                bar.set_postfix_str("")
                clock.restart()
            else:
                state, metrics = train_step(state, batch, *teacher)
            step += 1
            if traced := self.profile.at(step, state):
                self.say(f"trace of {settings.profile} (step:count) in {traced}, for TensorBoard and ui.perfetto.dev")
            if step < settings.steps:
                with clock.waiting():
                    host = next(batches)
                batch = to_mesh(host, program.batch_sharding)
            # The metrics of the previous step are ready, so fetching them does not block this one.
            if pending:
                self._log(*pending, bar, clock)
            pending = (step, metrics)
            stop = self.stop.poll()
            if stop or step % settings.checkpoint_every == 0 or self._evaluation_due(step):
                self._log(*pending, bar, clock)
                pending = None
                clock.enter(step)
                self._evaluate_and_save(state, step, batch)
                clock.restart()
        bar.close()
        self.profile.close(state)
        return state

    def _log(self, step: int, metrics: dict[str, jax.Array], bar: Any, clock: Clock) -> None:
        """Checks the metrics of one step; shows and writes them every `log_every` steps."""
        values = {f"train/{name}": float(value) for name, value in jax.device_get(metrics).items()}
        for name, value in values.items():
            if not np.isfinite(value):
                raise FloatingPointError(f"{name} is {value} at step {step}; {self._newest()}")
        bar.update(step - bar.n)
        if step % self.settings.log_every == 0 or step == self.settings.steps:
            speed = clock.enter(step).values(self.settings.batch_size, self._mfu_of_one)
            bar.set_postfix_str(f"loss={values['train/loss']:.4f}, {describe(speed)}")
            self.metrics.write(step, values | {f"speed/{name}": value for name, value in speed.items()})

    def _newest(self) -> str:
        """A description of the newest checkpoint on disk, for error messages."""
        if (found := self.checkpoints.newest()) is None:
            return f"there is no checkpoint yet in {self.workdir / 'checkpoints'}"
        step, entry = found
        score = "whose score is not finite" if entry.evaluated else "which was not evaluated"
        if entry.score is not None:
            score = f"with validation/{self.task.selection[0]} {entry.score:.4g}"
        return f"the newest checkpoint in {self.workdir / 'checkpoints'} is step {step}, {score}"

    @functools.cached_property
    def _mfu_of_one(self) -> float | None:
        """The MFU at one step per second; None on hardware with unknown peak."""
        device = jax.devices()[0]
        chip, dtype = chip_of(device.device_kind), self.config.precision.compute
        if chip is None or (peak := chip.peak_flops(dtype)) is None:
            return None
        model_flops = flops.step_flops(self.task, self.settings.batch_size)
        return flops.mfu(model_flops, 1.0, jax.device_count(), peak / chip.cores)

    def _evaluation_due(self, step: int) -> bool:
        every = self.settings.eval_every
        return step == self.settings.steps or (every > 0 and step % every == 0)

    def _evaluate_and_save(self, state, step: int, batch: Batch) -> None:
        """Evaluates if it is due, saves, and exits after SIGTERM. `batch` is the next one, {} if there is none yet."""
        score = None
        with jax.transfer_guard("allow"):
            if self._evaluation_due(step) and not self.stop:
                with self.timeline.measure("eval", step):
                    scorer = self.task.scorer(self.data, "validation") if self.settings.score == "all" else None
                    values = self.score_split(state, "validation", scorer)
                    if self.samples and values is not None:
                        self.samples.show(self.metrics.trackers, state, step, batch)
                if values is not None:
                    values |= self.privacy.spent(step)
                    self.metrics.write(step, values)
                    self.say(f"step {step}: " + ", ".join(f"{name} {value:.4f}" for name, value in values.items()))
                    score = self._score(values, step)
                    self.validated[step] = rundir.finite(values)
            with self.timeline.measure("save", step):
                self.lock.check()
                self.metrics.flush()
                self.folder.push()
                meta = result.of_checkpoint(self.config, self.info, self.validated.get(step)) | self.teacher.meta
                self.checkpoints.save(self.program, step, state, meta, score)
            if self.stop:
                self.profile.close(state)
                self.leave(step)

    def _score(self, values: dict[str, float], step: int) -> float:
        """The metric that selects checkpoints; process 0 broadcasts it, since only it has scores from the host."""
        name = f"validation/{self.task.selection[0]}"
        if name not in values and processes.is_main():
            raise ValueError(
                f"checkpoints are selected by {name}, but evaluations have {', '.join(values)}; "
                "set config.train.score=all to score predictions while training"
            )
        score = processes.broadcast_from_main(values.get(name)) if self.settings.score == "all" else values[name]
        if not np.isfinite(score):
            self.say(f"{name} is {score} at step {step}, so it cannot be selected as the best checkpoint")
        return score

    def _finish(self, state) -> dict[str, Any] | None:
        """Scores the selected checkpoint on the test split and writes `result.json`, or only says which one it is."""
        step = self.settings.steps
        self.lock.check()
        self.checkpoints.retain()
        if self.settings.select == "best":
            step, state = self.restore_selected()
        selected = result.selected(self.settings.steps, step, self.task.selection, self.validated.get(step, {}))
        if processes.is_main():
            rundir.write_json(self.folder.files / result.SELECTED, selected)
        if not self.settings.test:
            self.metrics.close(finished=True)
            self.checkpoints.close()
            self.folder.push()
            self.say("not scored on test; the same command with --config.train.test=true scores it")
            return None
        scorer = self.task.scorer(self.data, "test")
        with self.timeline.measure("eval", self.settings.steps):
            values = self.score_split(state, "test", scorer)
        if values is None:
            self.leave(self.settings.steps)
        values |= self.privacy.spent(self.settings.steps)  # of all steps, whichever checkpoint is scored
        self.metrics.write(self.settings.steps, values)
        self.metrics.close(finished=True)
        self.checkpoints.close()
        if not processes.is_main():
            return None
        files = self.folder.files
        # The validation metrics in the checkpoint, which have a checksum, and not those of the log.
        scores = rundir.finite(self.validated.get(step, {}) | values)
        content = result.describe(self.config, self.program, self.info, files, self.revision, step, scores)
        if scorer:
            scorer.save(files / "predictions.jsonl")
            content["signatures"] = {f"test/{name}": text for name, text in scorer.signatures.items()}
        content |= self.teacher.meta | self.privacy.meta(self.settings.steps)
        content = sealed(content | {"report": self.reported})
        rundir.write_json(files / "result.json", content)
        self.folder.push()
        return content
