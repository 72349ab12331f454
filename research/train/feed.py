"""Batches from the host onto the mesh."""

from collections.abc import Iterable, Iterator

import jax
from jax.sharding import Mesh, NamedSharding

from research.parallel import sharding
from research.spec.contracts import Batch, HostBatch
from research.train.settings import Experiment


def check_batch(config: Experiment, mesh: Mesh) -> None:
    """Raises ValueError when the mesh or the microbatches do not divide the batch."""
    train, shards = config.train, sharding.batch_shards(mesh)
    for field, size, parts, why in (
        ("batch_size", train.batch_size, shards * train.microbatches, "mesh data x fsdp x train.microbatches"),
        ("eval_batch_size", train.eval_batch_size, shards, "mesh data x fsdp"),
    ):
        if size % parts or size < parts:
            raise ValueError(f"config.train.{field}={size} must be a multiple of {parts} ({why})")


def local_rows(placement: NamedSharding, batch_size: int) -> slice | list[int]:
    """The rows of the global batch that this process's devices hold, in order; a slice where they are contiguous.

    They need not be: on a TPU slice neighbours in the mesh may belong to different hosts.
    """
    slices = placement.addressable_devices_indices_map((batch_size,)).values()
    spans = {part[0].indices(batch_size)[:2] for part in slices if part is not None}
    rows = [row for span in sorted(spans) for row in range(*span)]
    contiguous = len(rows) == rows[-1] + 1 - rows[0]
    return slice(rows[0], rows[-1] + 1) if contiguous else rows


def to_mesh(batch: HostBatch, placement: NamedSharding) -> Batch:
    """The global batch, of which `batch` holds this process's rows."""
    # On several processes JAX takes this for an implicit transfer, which training forbids.
    with jax.transfer_guard_host_to_device("allow"):
        return {name: jax.make_array_from_process_local_data(placement, array) for name, array in batch.items()}


def ahead(batches: Iterable[HostBatch], placement: NamedSharding) -> Iterator[tuple[HostBatch, Batch]]:
    """Pairs of a host batch and the same batch on the mesh, each put there before the one before is used up."""
    waiting = None
    for batch in batches:
        following = (batch, to_mesh(batch, placement))
        if waiting:
            yield waiting
        waiting = following
    if waiting:
        yield waiting
