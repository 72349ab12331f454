"""`python -m experiments.performance.exported`: the time of exported programs on one CPU core, StableHLO and ONNX.

Both programs of a model are called in turns, each with one thread. The CPU time is printed, which is the latency on an
idle core and which other processes change little: the median and the shortest of CALLS calls. Weights are random: the
time does not depend on their values, and with initial ones, whose head is zero, the comparison of logits would say
nothing.
"""

import os
import statistics
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
import onnxruntime  # pyright: ignore[reportMissingImports]
from jax import export as jax_export

from research import config as config_lib
from research import numerics
from research.interop import onnx_format

CONFIGS = {
    "configs/image_classification/digits_vit.py:cpu": (10, (8, 8, 1)),
    "configs/image_classification/cifar10_resnet.py:full": (10, (32, 32, 3)),
    "configs/image_classification/imagenet_vit_s16.py:full": (1000, (224, 224, 3)),
}
BATCHES = (1, 8)
CALLS = 20


def stablehlo_of(serve, spec):
    """The exported and deserialised program, compiled; its weights are arguments, as in interop/stablehlo.py."""
    exported = jax_export.export(jax.jit(serve), platforms=("cpu",))(*spec)
    return jax.jit(jax_export.deserialize(bytearray(exported.serialize())).call)


def times_ms(calls):
    """`{name: CPU times in ms}` of the functions in `calls`, called in turns."""
    found = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(CALLS):
        for name, call in calls.items():
            begun = time.process_time()
            call()
            found[name].append(1000 * (time.process_time() - begun))
    return found


def measure(config, classes, shape):
    """`{(batch, format): times in ms}` of the model of a config."""
    task = config.make_task(classes, shape)
    rng = np.random.default_rng(0)
    # Scales and variances around 1.
    values = lambda leaf: (rng.normal(0, 0.05, leaf.shape) + (leaf.ndim == 1)).astype(leaf.dtype)
    variables = jax.tree.map(values, jax.eval_shape(lambda: task.init(jax.random.key(0))))
    (batch,) = jax_export.symbolic_shape("batch")
    ((name, images),) = task.serve_inputs(batch).items()
    like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), variables)
    program = stablehlo_of(task.serve, (like, images))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        difference = onnx_format.write(lambda images: task.serve(variables, images), images, name, path)
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        for size in BATCHES:
            given = np.random.default_rng(size).integers(0, 256, (size, *shape), np.uint8)
            calls = {
                "StableHLO": lambda given=given: np.asarray(program(variables, given)),
                "ONNX": lambda given=given: session.run(None, {name: given}),
            }
            found |= {(size, kind): spent for kind, spent in times_ms(calls).items()}
    return difference, found


def main():
    """Prints a table."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # before JAX counts the cores
    numerics.shield()
    print("| config | batch | format | median (CPU ms) | shortest (CPU ms) |\n|---|---|---|---|---|")
    for text, (classes, shape) in CONFIGS.items():
        file, _, variant = text.partition(":")
        difference, found = measure(config_lib.load(file, variant, ["precision.compute=float32"]), classes, shape)
        for (size, kind), spent in found.items():
            print(f"| {text} | {size} | {kind} | {statistics.median(spent):.2f} | {min(spent):.2f} |", flush=True)
        print(f"largest difference of logits: {difference:.1e}", flush=True)


if __name__ == "__main__":
    main()
