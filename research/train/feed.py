"""Transfers batches from the host to the mesh."""

from collections.abc import Iterable, Iterator

import jax
from jax.sharding import Mesh, NamedSharding

from research.parallel import sharding
from research.spec.contracts import Batch, HostBatch
from research.train.settings import TrainSpec


def check_batch(train: TrainSpec, mesh: Mesh) -> None:
    """Raises ValueError unless mesh and microbatches divide the batch."""
    shards = sharding.batch_shards(mesh)
    for field, size, parts, why in (
        ("batch_size", train.batch_size, shards * train.microbatches, "mesh data x fsdp x train.microbatches"),
        ("eval_batch_size", train.eval_batch_size, shards, "mesh data x fsdp"),
    ):
        if size % parts or size < parts:
            raise ValueError(f"config.train.{field}={size} must be a multiple of {parts} ({why})")


def local_rows(placement: NamedSharding, batch_size: int) -> slice | list[int]:
    """The rows of the global batch on this process's devices, in order; a slice if they are contiguous.

    They may not be: on a TPU slice, neighbours in the mesh may belong to different hosts.
    """
    slices = placement.addressable_devices_indices_map((batch_size,)).values()
    spans = {part[0].indices(batch_size)[:2] for part in slices if part is not None}
    rows = [row for span in sorted(spans) for row in range(*span)]
    contiguous = len(rows) == rows[-1] + 1 - rows[0]
    return slice(rows[0], rows[-1] + 1) if contiguous else rows


def to_mesh(batch: HostBatch, placement: NamedSharding) -> Batch:
    """The global batch, given this process's rows in `batch`."""
    # With several processes JAX treats this as an implicit transfer, which training forbids.
    with jax.transfer_guard_host_to_device("allow"):
        return {name: jax.make_array_from_process_local_data(placement, array) for name, array in batch.items()}


def prefetch_to_device(batches: Iterable[HostBatch], placement: NamedSharding) -> Iterator[tuple[HostBatch, Batch]]:
    """Yields each host batch with its copy on the mesh, which is transferred one batch in advance."""
    waiting = None
    for batch in batches:
        following = (batch, to_mesh(batch, placement))
        if waiting:
            yield waiting
        waiting = following
    if waiting:
        yield waiting
