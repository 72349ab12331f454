"""Batches from the host onto the mesh."""

from collections.abc import Iterable, Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from research.parallel import sharding


def check_batch(config: Any, mesh: Mesh) -> None:
    """Raises ValueError when the mesh or the microbatches do not divide the batch."""
    train, shards = config.train, sharding.batch_shards(mesh)
    for field, size, parts, why in (
        ("batch_size", train.batch_size, shards * train.microbatches, "mesh data x fsdp x train.microbatches"),
        ("eval_batch_size", train.eval_batch_size, shards, "mesh data x fsdp"),
    ):
        if size % parts or size < parts:
            raise ValueError(f"config.train.{field}={size} must be a multiple of {parts} ({why})")


def local_rows(placement: NamedSharding, batch_size: int) -> slice:
    """The rows of the global batch that this process's devices hold; they are contiguous."""
    slices = placement.addressable_devices_indices_map((batch_size,)).values()
    spans = {part[0].indices(batch_size)[:2] for part in slices}
    start, stop = min(span[0] for span in spans), max(span[1] for span in spans)
    if sum(b - a for a, b in spans) != stop - start:
        raise ValueError(f"the rows {sorted(spans)} of this process are not contiguous; choose a mesh in device order")
    return slice(start, stop)


def to_mesh(batch: dict[str, np.ndarray], placement: NamedSharding) -> dict[str, jax.Array]:
    """The global batch, of which `batch` holds this process's rows."""
    return {name: jax.make_array_from_process_local_data(placement, array) for name, array in batch.items()}


def ahead(batches: Iterable[dict[str, np.ndarray]], placement: NamedSharding) -> Iterator[tuple[dict, dict]]:
    """Pairs of a host batch and the same batch on the mesh, each put there before the one before is used up."""
    waiting = None
    for batch in batches:
        following = (batch, to_mesh(batch, placement))
        if waiting:
            yield waiting
        waiting = following
    if waiting:
        yield waiting
