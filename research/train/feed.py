"""Transfers batches from the host to the mesh."""

from collections.abc import Iterable, Iterator

import jax
from jax.sharding import Mesh, NamedSharding

from research.parallel import sharding
from research.spec.contracts import Batch, Batches, Dataset, HostBatch, PoissonSampled
from research.train import privacy
from research.train.settings import Experiment, TrainSpec


def check_batch(train: TrainSpec, mesh: Mesh, padded: bool = False) -> None:
    """Raises ValueError unless the batch sizes are multiples of the batch shards and, in training, microbatches.

    With `padded`, training batches are padded, so that of training may be any, see `batch_rows`.
    """
    shards = sharding.batch_shards(mesh)
    sizes = [("eval_batch_size", train.eval_batch_size, shards, "mesh data x fsdp")]
    if not padded:
        parts = shards * train.microbatches
        sizes.insert(0, ("batch_size", train.batch_size, parts, "mesh data x fsdp x train.microbatches"))
    for field, size, parts, why in sizes:
        if size % parts or size < parts:
            raise ValueError(f"config.train.{field}={size} must be a multiple of {parts} ({why})")


def batch_rows(config: Experiment, mesh: Mesh) -> int:
    """The rows of a training batch: `train.batch_size`, or enough for Poisson samples of that expected size."""
    if not config.privacy.poisson:
        return config.train.batch_size
    parts = sharding.batch_shards(mesh) * config.train.microbatches
    return -(-privacy.capacity(config.train.batch_size) // parts) * parts


def train_batches(config: Experiment, data: Dataset, placement: NamedSharding, start: int) -> Batches:
    """This process's rows of the training batches of a run from step `start` on."""
    assert isinstance(placement.mesh, Mesh)  # an attached one
    size, expected = batch_rows(config, placement.mesh), config.train.batch_size
    rows = local_rows(placement, size)
    if not config.privacy.poisson:
        return data.train_batches(config.seed, size, start=start, rows=rows)
    assert isinstance(data, PoissonSampled)  # see privacy.Spending.check_with_data
    most = privacy.capacity(expected)
    return data.poisson_batches(config.seed, expected, most, size, start=start, rows=rows)


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
