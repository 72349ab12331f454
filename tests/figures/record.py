"""Records what each smoke config computes, so that a redesign can be compared with the code before it.

    python -m tests.figures.record DATA_DIR OUT.json [CONFIG ...]

For each config, in float64, with every parameter filled by a rule of its path and index: the loss of the first
training batch, the norm of the gradient of each leaf, and sums over what `predict` returns. In the config's own
precision: the checksum of every leaf of the state after ten steps, and their losses, bit for bit. The first hold on
any machine to 1e-10; the second only on the type of machine that recorded them.
"""

import hashlib
import json
import sys
import zlib
from pathlib import Path

import jax
import numpy as np

from research import config as config_lib
from research.data import prepare
from research.parallel import mesh as mesh_lib
from research.parallel.sharding import path_name
from research.train import feed
from research.train.program import build_program

STEPS = 10


def filled(path: str, shape: tuple[int, ...]) -> np.ndarray:
    """The float64 values of one leaf: positive for variances and scales, else around zero, by path and index."""
    phase = zlib.crc32(path.encode()) % 9973
    values = np.sin(phase + 1.7 * np.arange(int(np.prod(shape)), dtype=np.float64)).reshape(shape)
    if path.rsplit("/", 1)[-1] in ("var", "scale"):
        return 1.0 + 0.3 * values
    fan_in = int(np.prod(shape[:-1])) if len(shape) > 1 else 16
    return values / np.sqrt(max(1, min(fan_in, 1024)))


def variables_of(shapes):
    """A tree of `filled` leaves for a tree of shapes."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: filled(path_name(path), leaf.shape).astype(
            np.float64 if np.issubdtype(leaf.dtype, np.floating) else leaf.dtype
        ),
        shapes,
    )


def digest(arrays) -> str:
    """A digest of the content of a batch."""
    content = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        content.update(f"{name}{array.dtype}{array.shape}".encode() + array.tobytes())
    return content.hexdigest()[:16]


def summed(outputs) -> dict[str, list[float]]:
    """Shape, sum and weighted sum of every output."""
    result = {}
    for name, value in sorted(outputs.items()):
        value = np.nan_to_num(np.asarray(value, np.float64), neginf=-1e6, posinf=1e6)
        weights = np.sin(1 + np.arange(value.size)).reshape(value.shape)
        result[name] = [*value.shape, float(value.sum()), float((value * weights).sum())]
    return result


def scalar(value) -> float:
    """A number, or the weighted sum of an array, e.g. of a confusion matrix."""
    value = np.asarray(value, np.float64)
    return float((value * (np.sin(1 + np.arange(value.size)).reshape(value.shape) if value.ndim else 1.0)).sum())


def load(file: str, data_dir: str, *overrides: str):
    """The config, task and data of a smoke variant."""
    config = config_lib.load(file, "smoke", [f"data.dir={data_dir}", "data.workers=0", *overrides])
    return config, *config.build()


def in_float64(file: str, data_dir: str) -> dict:
    """Loss, gradient norms and predictions of the first batch."""
    with jax.enable_x64(True):
        config, task, data = load(file, data_dir, "precision.params=float64", "precision.compute=float64")
        batch = next(data.train_batches(config.seed, config.train.batch_size))
        variables = variables_of(jax.eval_shape(task.init, jax.random.key(0)))
        rng = jax.random.key(1)

        def loss(params):
            return task.loss({**variables, "params": params}, batch, task.totals(batch), rng)

        (value, (_, sums)), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(variables["params"])
        outputs = jax.device_get(jax.jit(task.predict)(variables, batch, rng))
        evaluated = jax.device_get(jax.jit(task.evaluate)(variables, batch))
        norms = {
            path_name(path): float(np.linalg.norm(np.asarray(leaf, np.float64).ravel()))
            for path, leaf in jax.tree_util.tree_leaves_with_path(jax.device_get(gradients))
        }
        return {
            "batch": digest({name: array for name, array in batch.items()}),
            "loss": float(value),
            "sums": {name: [scalar(part) for part in pair] for name, pair in sorted(sums.items())},
            "evaluated": {name: [scalar(part) for part in pair] for name, pair in sorted(evaluated.items())},
            "predicted": summed(outputs),
            "gradient_norms": norms,
        }


def ten_steps(file: str, data_dir: str) -> dict:
    """The bits of the state after ten steps on one device, and the losses on the way."""
    config, task, data = load(file, data_dir)
    mesh = mesh_lib.make_mesh(config.mesh.sizes, jax.devices()[:1])
    program = build_program(config, task, mesh)
    state = program.init()
    batches = data.train_batches(config.seed, config.train.batch_size)
    losses, digests = [], []
    for _ in range(STEPS):
        host = next(batches)
        digests.append(digest(host))
        state, metrics = program.train_step(state, feed.to_mesh(host, program.batch_sharding))
        losses.append(float(metrics["loss"]).hex())
    names = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(program.state)]
    sums = [int(total) for total in jax.device_get(program.checksums(state))]
    return {
        "digest": config.source.digest,
        "batches": digests,
        "losses": losses,
        "checksums": dict(zip(names, sums, strict=True)),
    }


def main(data_dir: str, out: str, *files: str) -> None:
    """Records `files`, or every config; a file that is there is added to."""
    path = Path(out)
    figures = json.loads(path.read_text()) if path.exists() else {}
    for file in files or sorted(str(path) for path in Path("configs").glob("*/*.py")):
        if file in figures:
            continue
        prepare.prepare(config_lib.load(file, "smoke").data.name, data_dir=data_dir)
        _, _, data = load(file, data_dir)
        data.prepare()
        figures[file] = {"float64": in_float64(file, data_dir), "steps": ten_steps(file, data_dir)}
        path.write_text(json.dumps(figures, indent=1, sort_keys=True) + "\n")
        print(file, figures[file]["float64"]["loss"], flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
