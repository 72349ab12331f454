"""Suite `compile`: how the time to trace and compile the train step of a ViT grows with its depth.

It should not, since the layers are scanned: one is compiled, whatever their number.
"""

import statistics
import time

from experiments.performance.measurement import DIGITS, Measured, Measurement, load, say
from research.train import trainer

UNROLL = "model.unroll=1"  # a scan over layers, as in large models; the small config unrolls


def measure(config: str = DIGITS, depths: tuple[int, int] = (12, 48), repeats: int = 5) -> Measured:
    """Medians over `repeats` alternations of the two depths."""
    compile_seconds(config, depths[0])  # untimed: fills JAX's tracing caches
    seconds = {depth: [] for depth in depths}
    for repeat in range(repeats):
        for depth in depths:
            seconds[depth].append(compile_seconds(config, depth))
        newest = ", ".join(f"{depth} layers {seconds[depth][-1]:.2f} s" for depth in depths)
        say(f"  {repeat + 1} of {repeats}: {newest}")
    medians = [statistics.median(seconds[depth]) for depth in depths]
    yield (
        f"{config} --config.{UNROLL}",
        [
            Measurement(f"{depths[1]} layers / {depths[0]} layers", medians[1] / medians[0], at_most=1.2),
            *(Measurement(f"{depth} layers", median, "s") for depth, median in zip(depths, medians, strict=True)),
        ],
    )


def compile_seconds(config: str, depth: int) -> float:
    """Seconds to trace, lower and compile the train step at `depth` layers, on abstract arguments."""
    loaded, task, _ = load(config, (UNROLL, f"model.depth={depth}"))
    program = trainer.build(loaded, task)
    begun = time.perf_counter()
    program.train_step.lower(program.state, task.example(loaded.train.batch_size)).compile()
    return time.perf_counter() - begun
