"""Suite `vit`: train steps of ViT-S, B and L at 224 px in bfloat16 on the accelerator that is attached.

The program is the trainer's; only the batch is made up, since the decoding of images is another suite's matter.
"""

import statistics
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.performance.measurement import Measured, Measurement, load, say, time_steps
from research.measure import flops
from research.measure.chips import chip_of
from research.models.vit import SIZES
from research.train import feed, trainer

CONFIG = "configs/image_classification/imagenet_vit_l16.py"
GIB = 2**30
# Size, images per step and device, model.remat, GiB of memory that it needs; the most important first.
RUNS = (("L", 256, "operands", 50), ("L", 256, "none", 70), ("B", 256, "operands", 20), ("S", 512, "operands", 20))


def measure(
    config: str = CONFIG,
    runs: Sequence[tuple[str, int, str, int]] = RUNS,
    overrides: Sequence[str] = (),
    steps: int = 22,
    repeats: int = 3,
    matmul: int = 8192,
) -> Measured:
    """For each of `runs`: medians over `repeats` segments of `steps` steps, alternating with a large matmul.

    Raises ValueError on a machine without an accelerator, where a step would take minutes.
    """
    if jax.default_backend() == "cpu" and config == CONFIG:
        raise ValueError("the suite vit needs a GPU or TPU, and JAX has found none; leave it out, or see --quick")
    for size, batch_size, remat, needed in runs:
        if (memory := _memory("bytes_limit") / GIB) and memory < needed:
            say(f"ViT-{size}/16 with remat={remat} is skipped: it needs {needed} GiB, and there are {memory:.0f}")
            continue
        shape = [f"model.{field}={value}" for field, value in SIZES[size].items()] if config == CONFIG else []
        words = ["precision.compute=bfloat16", f"train.batch_size={batch_size * jax.device_count()}", "mesh.data=-1"]
        if config == CONFIG:
            words += [*shape, f"model.remat={remat}", f"model.unroll={SIZES[size]['depth']}"]
        words += overrides
        name = " ".join([config, *(f"--config.{word}" for word in words)])
        yield name, _measure_size(f"ViT-{size}/16", config, words, steps, repeats, matmul)


def _measure_size(name: str, config: str, overrides: list[str], steps: int, repeats: int, matmul: int):
    loaded, task, _ = load(config, overrides)
    peak_before = _memory("peak_bytes_in_use")
    program = trainer.build(loaded, task)
    batch = random_batch(task, loaded.train.batch_size, program)
    state, step_s, matmul_flops = program.init(), [], []
    for repeat in range(repeats):
        state, seconds = time_steps(program.train_step, state, batch, steps)
        step_s.append(seconds / (steps - 2))
        matmul_flops.append(jax.device_count() * flops_of_matmul(matmul))
        say(f"  {name}: {repeat + 1} of {repeats}: {step_s[-1] * 1e3:.1f} ms a step")
    seconds = statistics.median(step_s)
    model_flops = flops.step_flops(task, loaded.train.batch_size)
    values = [
        Measurement(f"{name} step", seconds * 1e3, "ms"),
        Measurement(f"{name} examples", loaded.train.batch_size / seconds, "examples/s"),
        Measurement(f"{name} MFU against a matmul", model_flops / seconds / statistics.median(matmul_flops)),
    ]
    chip = chip_of(jax.devices()[0].device_kind)
    if chip is not None:
        peak = jax.device_count() * chip.peak_flops("bfloat16") / chip.cores
        goal = {"at_least": 0.6} if "ViT-L" in name else {}
        values.append(Measurement(f"{name} MFU against the datasheet", model_flops / seconds / peak, **goal))
    if (used := _memory("peak_bytes_in_use")) > peak_before:  # which a smaller model may not have exceeded
        values.append(Measurement(f"{name} peak memory", used / GIB, "GiB"))
    return values


def _memory(key: str) -> int:
    """A memory statistic of the device in bytes (peaks are since process start); 0 if not available."""
    return (jax.devices()[0].memory_stats() or {}).get(key, 0)


def random_batch(task: Any, batch_size: int, program: Any) -> dict[str, jax.Array]:
    """A batch of the task's shapes on the mesh: random images, label 0, weight 1."""
    rng = np.random.default_rng(0)
    arrays = {name: np.zeros(spec.shape, spec.dtype) for name, spec in task.example(batch_size).items()}
    arrays["image"] = rng.integers(0, 256, arrays["image"].shape, np.uint8)
    arrays["weight"] += 1
    rows = feed.local_rows(program.batch_sharding, batch_size)
    return feed.to_mesh({name: array[rows] for name, array in arrays.items()}, program.batch_sharding)


def flops_of_matmul(size: int, repeats: int = 20) -> float:
    """FLOP/s of one device on products of bfloat16 [size, size] matrices, one feeding the next."""
    matrix = jax.random.normal(jax.random.key(0), (size, size), jnp.bfloat16) / size**0.5
    product = jax.jit(lambda x: x @ matrix)
    x = product(product(matrix)).block_until_ready()
    begun = time.perf_counter()
    for _ in range(repeats):
        x = product(x)
    x.block_until_ready()
    return repeats * 2 * size**3 / (time.perf_counter() - begun)
