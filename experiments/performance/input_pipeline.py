"""Suite `input`: throughput of the input pipeline alone, and of the compiled step alone."""

import statistics
import time
from collections.abc import Iterator

from experiments.performance.measurement import (
    CIFAR10,
    SETTLE_STEPS,
    Measured,
    Measurement,
    fill_cache,
    load,
    program_and_batches,
    say,
    time_steps,
)
from research.train import feed


def measure(config: str = CIFAR10, repeats: int = 3, batches: int = 100, steps: int = 12) -> Measured:
    """Medians over `repeats` alternations of `batches` batches and `steps` steps."""
    loaded, task, data = load(config)
    fill_cache(data)
    program, pipeline = program_and_batches(loaded, task, data)
    state, batch = program.init(), feed.to_mesh(next(pipeline), program.batch_sharding)
    batch_seconds, step_seconds = [], []
    for repeat in range(repeats):
        batch_seconds.append(_seconds_a_batch(pipeline, batches, drain=loaded.data.prefetch + 2))
        state, seconds = time_steps(program.train_step, state, batch, steps)
        step_seconds.append(seconds / (steps - SETTLE_STEPS))
        newest = f"{batch_seconds[-1] * 1e3:.1f} ms a batch, {step_seconds[-1] * 1e3:.1f} ms a step"
        say(f"  {repeat + 1} of {repeats}: {newest}")
    made, eaten = (loaded.train.batch_size / statistics.median(times) for times in (batch_seconds, step_seconds))
    yield (
        config,
        [
            Measurement("input pipeline / step", made / eaten, at_least=3),
            Measurement("input pipeline", made, "examples/s"),
            Measurement("step", eaten, "examples/s"),
        ],
    )


def _seconds_a_batch(pipeline: Iterator, batches: int, drain: int) -> float:
    """Timed after `drain` prefetched batches are consumed."""
    for _ in range(drain):
        next(pipeline)
    begun = time.perf_counter()
    for _ in range(batches):
        next(pipeline)
    return (time.perf_counter() - begun) / batches
