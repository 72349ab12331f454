"""Suite `loop`: the overhead of the trainer over its bare compiled step.

The trainer itself runs, from the entrypoint's config, with a train step that keeps the time. At the border between two
segments it runs the same compiled step on the same state with nothing around it. So bare and full segments alternate
in one process, and what changes in the machine changes both. A full segment holds all that the trainer does between two
evaluations: input pipeline, copies to the device, metrics and their logging, the progress bar.
"""

import dataclasses
import signal
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from experiments.performance.measurement import (
    CIFAR10,
    SETTLE_STEPS,
    Measured,
    Measurement,
    fill_cache,
    load,
    say,
    time_steps,
)
from research.train import trainer


class _Enough(Exception):  # noqa: N818  Ends the trainer's loop; nothing has failed.
    pass


class SegmentedStep:
    """A train step that, called by the trainer, alternates its calls with bare segments and times both.

    `full_s` and `bare_s` hold the seconds of each pair of segments of `segment` steps, without their first
    SETTLE_STEPS. Ends with an exception after `pairs` pairs.
    """

    def __init__(self, train_step: Callable, segment: int, pairs: int):
        self._train_step, self._segment, self._pairs = train_step, segment, pairs
        self._calls, self._since = 0, 0.0
        self.full_s: list[float] = []
        self.bare_s: list[float] = []

    def lower(self, *arguments: Any) -> "SegmentedStep":
        """Like that of a jitted function, for the trainer, which compiles its step ahead of time."""
        self._train_step = self._train_step.lower(*arguments)
        return self

    def compile(self) -> "SegmentedStep":
        """After `lower`: this step again, compiled."""
        self._train_step = self._train_step.compile()
        return self

    def __call__(self, state: Any, batch: Any) -> tuple[Any, Any]:
        """The step; see the class."""
        # The first call compiles and belongs to no segment.
        segments, position = divmod(self._calls - 1, self._segment)
        if segments >= 0 and position == 0:
            self._change_segment(state, batch, segments)
        if position == SETTLE_STEPS:
            jax.block_until_ready(state)
            self._since = time.perf_counter()
        self._calls += 1
        return self._train_step(state, batch)

    def _change_segment(self, state, batch, finished: int) -> None:
        jax.block_until_ready(state)
        if finished:
            self.full_s.append(time.perf_counter() - self._since)
            say(f"  pair {finished} of {self._pairs}: full / bare {self.full_s[-1] / self.bare_s[-1]:.4f}")
        if finished == self._pairs:
            raise _Enough
        copied = jax.tree.map(jnp.copy, state)  # since the step donates its state
        self.bare_s.append(time_steps(self._train_step, copied, batch, self._segment)[1])


def measure(config: str = CIFAR10, segment: int = 25, pairs: int = 8) -> Measured:
    """The median over pairs of segments of the ratio full loop / bare step, and the step time in both."""
    never = ("train.eval_every=1000000000", "train.checkpoint_every=1000000000")
    loaded, task, data = load(config, (*never, f"train.log_every={segment}"))
    fill_cache(data)
    say(f"  {pairs} pairs of segments of {segment} steps")
    on_sigterm = signal.getsignal(signal.SIGTERM)
    with tempfile.TemporaryDirectory() as workdir:
        run = trainer.TrainingRun(loaded, task, data, Path(workdir) / "run").opened()
        step = SegmentedStep(run.program.train_step, segment, pairs)
        run.program = dataclasses.replace(run.program, train_step=step)
        try:
            run.train()
        except _Enough:
            pass  # the trainer has closed its files on the way out
        finally:
            signal.signal(signal.SIGTERM, on_sigterm)  # the trainer has set its own handler
    timed = segment - SETTLE_STEPS
    ratios = [full / bare for full, bare in zip(step.full_s, step.bare_s, strict=True)]
    yield (
        config,
        [
            Measurement("full loop / bare step", statistics.median(ratios), at_most=1.02),
            Measurement("bare step", statistics.median(step.bare_s) / timed * 1e3, "ms"),
            Measurement("step in the full loop", statistics.median(step.full_s) / timed * 1e3, "ms"),
        ],
    )
