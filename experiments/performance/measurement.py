"""What the suites share: a measured value beside its goal, a config made ready to run, timed steps."""

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

# Untimed steps before timed ones: the caches are warm by then, and so are the buffers of the input pipeline full.
SETTLE_STEPS = 2


@dataclasses.dataclass(frozen=True)
class Measurement:
    """One value; at most one of the two bounds is its goal."""

    name: str
    value: float
    unit: str = ""
    at_most: float | None = None
    at_least: float | None = None

    @property
    def goal(self) -> str | None:
        """`<= 1.02`, `>= 3`, or None where nothing is promised."""
        if self.at_most is not None:
            return f"<= {self.at_most:g}"
        return None if self.at_least is None else f">= {self.at_least:g}"

    @property
    def met(self) -> bool | None:
        """Whether the value keeps its goal; None where there is none."""
        if self.at_most is not None:
            return bool(self.value <= self.at_most)  # NumPy's own cannot be written as JSON
        return None if self.at_least is None else bool(self.value >= self.at_least)


# A suite measures one config after the other: `measure()` gives (config, measurements) as soon as it has them.
Measured = Iterator[tuple[str, list[Measurement]]]


def say(line: str) -> None:
    """A line of progress; on standard error, so that standard output holds the table alone."""
    progress.say(line)  # rather than print, since the trainer's progress bar may be there


def load(config: str, overrides: Sequence[str] = ()) -> tuple[Any, Any, Any]:
    """`(config, task, data)` of `FILE:VARIANT`, as the config's entrypoint makes them."""
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
    """Reads every training image once where decoded ones are kept: all epochs but the first find them there."""
    data.prepare()
    if data.cache:
        source = data.source("train")
        for index in range(len(source)):
            source[index]


def time_steps(train_step: Callable, state: Any, batch: Any, steps: int) -> tuple[Any, float]:
    """The state after `steps` steps on one batch, and the seconds that all but the first SETTLE_STEPS took."""
    for _ in range(SETTLE_STEPS):
        state, _ = train_step(state, batch)
    jax.block_until_ready(state)
    begun = time.perf_counter()
    for _ in range(steps - SETTLE_STEPS):
        state, _ = train_step(state, batch)
    jax.block_until_ready(state)
    return state, time.perf_counter() - begun
