"""What trackers show beside numbers, with `train.samples`: predictions, a confusion matrix and histograms.

All processes of a pod compute, since parameters and batches are sharded; process 0 alone draws and sends.
"""

import contextlib
import functools
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from research.metrics import confusion
from research.parallel import processes, sharding
from research.spec.contracts import Dataset, HostBatch, HostOutputs, Task
from research.tracking import figures
from research.tracking.base import Histogram
from research.tracking.trackers import Trackers
from research.train import optimizer
from research.train.feed import local_rows, prefetch_to_device
from research.train.program import ShardedProgram, TrainState
from research.train.settings import Experiment

BINS = 32
_TEXTS = 16  # examples whose predictions are shown as text
_LONG = 300  # characters of a text that are shown
SPLIT = "validation"


class Samples:
    """Sends samples of a run to its trackers, at one step at a time."""

    def __init__(
        self,
        config: Experiment,
        program: ShardedProgram,
        task: Task[Any],
        data: Dataset,
        warn: Callable[[str], None],
    ):
        self._config, self._program, self._task, self._data, self._warn = config, program, task, data, warn
        self._warned = False

        def jit(function):
            @functools.wraps(function)
            def traced(*arguments):
                with sharding.constraints_for(program.mesh):
                    return function(*arguments)

            return jax.jit(traced, out_shardings=NamedSharding(program.mesh, PartitionSpec()))

        self._of_parameters = jit(histograms)
        self._of_gradients = jit(lambda state, batch: histograms(gradients(config, task, state, batch)))

    def show(self, trackers: Trackers, state: TrainState, step: int, batch: Mapping[str, jax.Array]) -> None:
        """Sends the samples of `step`; gradients are those of `batch`, if it is not empty."""
        found = {"parameters": self._of_parameters(state.params)}
        if batch:
            found["gradients"] = self._of_gradients(state, batch)
        fetched = jax.device_get(found)
        batches, lines = self._predictions(state)
        if not processes.is_main():
            return
        with self._unharmed():
            trackers.histograms(step, {f"{kind}/{name}": h for kind in fetched for name, h in fetched[kind].items()})
        if not lines:
            return
        with self._unharmed():
            trackers.texts(step, f"samples/{SPLIT}", [as_text(line) for line in lines[:_TEXTS]])
            if (image := figures.of_images(*batches[0], lines)) is not None:
                trackers.image(step, f"samples/{SPLIT}_images", image)
            names, counts = confusion.matrix(lines)
            if names:
                title = f"{SPLIT}, step {step}, {len(lines)} examples"
                trackers.image(
                    step, f"samples/{SPLIT}_confusion", figures.rendered(confusion.figure(names, counts, title))
                )

    def _predictions(self, state: TrainState) -> tuple[list[tuple[HostBatch, HostOutputs]], list[dict[str, Any]]]:
        """The first batch of validation with its outputs, and the records of predictions; none without a scorer.

        The records are those of the first batch or, for classifiers, of the whole split.
        """
        scorer = None
        with self._unharmed():  # on all processes alike: a split may lack what predictions are compared with
            scorer = self._task.scorer(self._data, SPLIT) if self._data.counts[SPLIT] else None
        if scorer is None:
            return [], []
        size, first, program = self._config.train.eval_batch_size, [], self._program
        rows = local_rows(program.batch_sharding, size)
        with contextlib.closing(self._data.eval_batches(SPLIT, size, rows)) as batches:
            for number, (host, batch) in enumerate(prefetch_to_device(batches, program.batch_sharding)):
                rng = jax.random.fold_in(jax.random.key(self._config.seed), number)
                outputs = jax.device_get(program.predict_step(state.evaluated, batch, rng))
                first = first or [(host, outputs)]
                with self._unharmed():
                    scorer.add(outputs)
                if np.ndim(outputs.get("probabilities", 0)) != 2:
                    break
        lines: list[dict[str, Any]] = []
        if processes.is_main():
            with self._unharmed(), tempfile.TemporaryDirectory() as folder:
                scorer.result()  # some scorers know the predictions only then
                scorer.save(Path(folder) / "predictions.jsonl")
                text = (Path(folder) / "predictions.jsonl").read_text("utf-8")
                lines = [json.loads(line) for line in text.splitlines()]
        return first, lines

    @contextlib.contextmanager
    def _unharmed(self):
        """Context manager: an error on the host is one warning, since samples are no reason to end a run."""
        try:
            yield
        except Exception as error:  # noqa: BLE001  of scorers on a part of a split, of matplotlib
            if not self._warned:
                self._warned = True
                self._warn(f"some samples cannot be shown ({type(error).__name__}: {error}); the run goes on")


def gradients(config: Experiment, task: Task[Any], state: TrainState, batch: Mapping[str, jax.Array]) -> Any:
    """The gradients of the task's loss, in the parameters that are trained, on the first microbatch of `batch`.

    Before any clipping, and without a teacher. With one microbatch they are those of the next training step.
    """
    part = {name: array[:: config.train.microbatches] for name, array in batch.items()}
    trained = optimizer.trained(config.optimizer, config.lora, state.params)
    rng = jax.random.fold_in(jax.random.fold_in(jax.random.key(config.seed), state.step), 0)  # as in program.py

    def loss(params):
        variables = {"params": optimizer.merged(state.params, params), **state.mutable}
        return task.loss(variables, part, task.totals(part), rng)[0]

    return jax.grad(loss)(trained)


def histograms(tree: Any) -> dict[str, Histogram]:
    """`{path: histogram}` of the finite values of every leaf, in BINS bins of equal width.

    Counted by comparison, so that a sharded leaf is not gathered.
    """
    return {
        sharding.path_name(path): _histogram(leaf.astype(jnp.float32))
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
        if leaf.size
    }


def _histogram(values: jax.Array) -> Histogram:
    finite = jnp.isfinite(values)
    low = jnp.min(values, initial=jnp.inf, where=finite)
    high = jnp.max(values, initial=-jnp.inf, where=finite)
    low, high = (jnp.where(low > high, 0.0, side) for side in (low, high))  # no value is finite
    low, high = jnp.where(low == high, low - 0.5, low), jnp.where(low == high, high + 0.5, high)  # as NumPy
    bins = jnp.clip(((values - low) / (high - low) * BINS).astype(jnp.int32), 0, BINS - 1)
    counts = jnp.stack([jnp.sum((bins == number) & finite) for number in range(BINS)])
    return Histogram(counts, jnp.linspace(low, high, BINS + 1))  # pyright: ignore[reportArgumentType]  NumPy once fetched


def as_text(line: Mapping[str, Any]) -> str:
    """The record of a prediction as lines of `field: value`, without long lists of numbers."""
    shown = {key: value for key, value in line.items() if isinstance(value, str | int | float) or _is_texts(value)}
    return "\n".join(f"{key}: {_shortened(value)}" for key, value in shown.items())


def _is_texts(value: Any) -> bool:
    return isinstance(value, Sequence) and len(value) < 10 and all(isinstance(each, str) for each in value)


def _shortened(value: Any) -> str:
    text = " | ".join(value) if _is_texts(value) and not isinstance(value, str) else str(value)
    text = " ".join(text.split())
    return text if len(text) <= _LONG else text[:_LONG] + "..."
