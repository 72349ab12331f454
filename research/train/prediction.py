"""Runs the predict step of a program on examples, in batches of constant size."""

import jax
import numpy as np

from research.parallel import sharding
from research.spec.contracts import HostBatch, Program, Variables
from research.train.feed import local_rows, to_mesh


def predict(
    program: Program, variables: Variables, seed: int, batch_size: int, examples: HostBatch, rows: int = 0
) -> HostBatch:
    """Predicts `examples`: arrays [count, ...] in, arrays [count, ...] out.

    A batch has at most `batch_size` rows, and at most as many as the examples, or `rows` of them, need on the mesh. The
    last batch is padded with zeros.
    """
    count, parts = len(next(iter(examples.values()))), sharding.batch_shards(program.mesh)
    size = min(batch_size, -(-max(count, rows) // parts) * parts)
    local, outputs = local_rows(program.batch_sharding, size), []
    for begin in range(0, count, size):
        chunk = {name: array[begin : begin + size] for name, array in examples.items()}
        fill = size - len(next(iter(chunk.values())))
        chunk = {name: np.pad(array, [(0, fill)] + [(0, 0)] * (array.ndim - 1)) for name, array in chunk.items()}
        batch = to_mesh({name: array[local] for name, array in chunk.items()}, program.batch_sharding)
        rng = jax.random.fold_in(jax.random.key(seed), begin)  # for sampling decoders
        outputs.append(jax.device_get(program.predict_step(variables, batch, rng)))
    return jax.tree.map(lambda *chunks: np.concatenate(chunks)[:count], *outputs)
