"""What the suites share: a measured value with its goal, loading a config, timed steps."""

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax

from research import config as config_lib
from research.measure import progress
from research.train import feed, trainer
from research.train.program import ShardedProgram

DIGITS = "configs/image_classification/digits_vit.py:cpu"
CIFAR10 = "configs/image_classification/cifar10_resnet.py:cpu"
SMOKE = "configs/image_classification/digits_vit.py:smoke"

# Untimed steps before timed ones: they warm up caches and fill the buffers of the input pipeline.
SETTLE_STEPS = 2


@dataclasses.dataclass(frozen=True)
class Measurement:
    """One value, with at most one bound as its goal."""

    name: str
    value: float
    unit: str = ""
    at_most: float | None = None
    at_least: float | None = None

    @property
    def goal(self) -> str | None:
        """`<= 1.02`, `>= 3`, or None without a goal."""
        if self.at_most is not None:
            return f"<= {self.at_most:g}"
        return None if self.at_least is None else f">= {self.at_least:g}"

    @property
    def met(self) -> bool | None:
        """Whether the value meets its goal; None without a goal."""
        if self.at_most is not None:
            return bool(self.value <= self.at_most)  # NumPy's own cannot be written as JSON
        return None if self.at_least is None else bool(self.value >= self.at_least)


# `measure()` of a suite yields (config, measurements) for one config after the other.
Measured = Iterator[tuple[str, list[Measurement]]]


def say(line: str) -> None:
    """Prints a line of progress to standard error; standard output is for the table."""
    progress.say(line)  # rather than print, since the trainer's progress bar may be there


def load(config: str, overrides: Sequence[str] = ()) -> tuple[Any, Any, Any]:
    """`(config, task, data)` of `FILE:VARIANT`, as in the entrypoint of the experiment."""
    source = config_lib.Source.parse(config, overrides)
    loaded = config_lib.load(source.file, source.variant, source.overrides)
    return loaded, *loaded.build()


def program_and_batches(config: Any, task: Any, data: Any) -> tuple[ShardedProgram, Iterator[dict]]:
    """The program that the trainer would run, and the host batches that it would feed to it."""
    program = trainer.build(config, task)
    data.prepare()
    rows = feed.local_rows(program.batch_sharding, config.train.batch_size)
    return program, data.train_batches(config.seed, config.train.batch_size, rows=rows)


def fill_cache(data: Any) -> None:
    """Reads every training image once if decoded images are cached, as they are after the first epoch."""
    data.prepare()
    if data.cache:
        source = data.source("train")
        for index in range(len(source)):
            source[index]


def time_steps(train_step: Callable, state: Any, batch: Any, steps: int) -> tuple[Any, float]:
    """The state after `steps` steps on one batch, and the seconds of all but the first SETTLE_STEPS."""
    for _ in range(SETTLE_STEPS):
        state, _ = train_step(state, batch)
    jax.block_until_ready(state)
    begun = time.perf_counter()
    for _ in range(steps - SETTLE_STEPS):
        state, _ = train_step(state, batch)
    jax.block_until_ready(state)
    return state, time.perf_counter() - begun
