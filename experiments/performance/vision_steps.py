"""Suite `vision`: training steps and inference of detection, segmentation, faces and video on one device."""

import statistics
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from experiments.performance.measurement import SETTLE_STEPS, Measured, Measurement, load, say, time_steps
from research.train import feed, trainer
from research.train.program import ShardedProgram

CONFIGS = (
    "configs/detection/bccd_fcos.py:cpu",
    "configs/driving_segmentation/camvid_unet.py:cpu",
    "configs/face_recognition/orl_verification.py:cpu",
    "configs/video/fight_vivit.py:cpu",
)


def measure(
    configs: Sequence[str] = CONFIGS, steps: int = 7, repeats: int = 3, asked: Sequence[int] = (1, 32), answers: int = 7
) -> Measured:
    """For each config the median training step, and median inference for each batch size in `asked`."""
    for config in configs:
        yield config, _measure_config(config, steps, repeats, asked, answers)


def _measure_config(config: str, steps: int, repeats: int, asked: Sequence[int], answers: int) -> list[Measurement]:
    loaded, task, data = load(config)
    program = trainer.build(loaded, task, jax.devices()[:1])
    size = loaded.train.batch_size
    examples = next(data.train_batches(loaded.seed, size))
    batch, state, step_s = feed.to_mesh(examples, program.batch_sharding), program.init(), []
    for repeat in range(repeats):
        state, seconds = time_steps(program.train_step, state, batch, steps)
        step_s.append(seconds / (steps - SETTLE_STEPS))
        say(f"  {config}: {repeat + 1} of {repeats}: {step_s[-1] * 1e3:.1f} ms a step")
    seconds = statistics.median(step_s)
    measured = [
        Measurement(f"training step, batch of {size}", seconds * 1e3, "ms"),
        Measurement("training", size / seconds, "examples/s"),
    ]
    for count in asked:
        seconds = answer_seconds(program, state.evaluated, examples, count, answers)
        say(f"  {config}: inference for {count} takes {seconds * 1e3:.1f} ms")
        measured.append(Measurement(f"inference, batch of {count}", seconds * 1e3, "ms"))
    return measured


def answer_seconds(program: ShardedProgram, variables: Any, examples: dict[str, np.ndarray], count: int, answers: int):
    """Median seconds from `count` examples to outputs, both in host memory, after a call that compiles."""
    examples = {name: np.resize(array, (count, *array.shape[1:])) for name, array in examples.items()}
    rng, seconds = jax.random.key(0), []
    for _ in range(answers + 1):
        begun = time.perf_counter()
        batch = feed.to_mesh(examples, program.batch_sharding)
        jax.device_get(program.predict_step(variables, batch, rng))
        seconds.append(time.perf_counter() - begun)
    return statistics.median(seconds[1:])
