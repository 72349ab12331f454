"""Writes a checkpoint layer by layer, so that it never has to be in memory as a whole."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np
import orbax.checkpoint as ocp
import tensorstore
from orbax.checkpoint import type_handlers

# Orbax has no public function for the tensorstore spec of a leaf, without which a leaf cannot be read part by part.
from orbax.checkpoint._src.serialization import tensorstore_utils as ts_utils

from research.checkpoint import seal
from research.checkpoint.checksums import array_checksum
from research.parallel.sharding import path_name


@dataclasses.dataclass(frozen=True)
class StreamedLeaf:
    """A lazily read array: `parts()` yields its rows one by one if it is `stacked`, else the whole array."""

    shape: tuple[int, ...]
    dtype: np.dtype
    parts: Callable[[], Iterator[np.ndarray]]
    stacked: bool

    @property
    def size(self) -> int:
        """The number of elements, for Orbax."""
        return math.prod(self.shape)

    def checksum(self) -> int:
        """The checksum, see checksums.py."""
        return array_checksum(self.parts(), self.dtype)


class _Handler(type_handlers.NumpyHandler):
    """Writes leaves in the format of Orbax's arrays."""

    async def serialize(self, values, infos, args=None):
        leaves = cast(Sequence[StreamedLeaf], values)
        for value, info, arg in zip(leaves, infos, args or (), strict=True):
            await info.await_path_creation()
            shape = (1, *value.shape[1:]) if value.stacked else value.shape
            spec = ts_utils.build_array_write_spec(
                info=info, arg=arg, global_shape=value.shape, local_shape=shape, dtype=value.dtype,
                use_ocdbt=bool(info.is_ocdbt_checkpoint), process_index=0 if info.is_ocdbt_checkpoint else None,
            )  # fmt: skip
            store = await tensorstore.open(tensorstore.Spec(spec.json), create=True, open=True, context=info.ts_context)
            for row, part in enumerate(value.parts()):
                await (store[row : row + 1].write(part[None]) if value.stacked else store.write(part))
        return []


def write(directory: Path, state: Any, meta: Mapping[str, Any]) -> None:
    """Writes step 0 of a run: `state` is a tree of StreamedLeaf; `meta` as in `Checkpoints.save`."""
    named = [(path_name(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(state)]
    leaves = {name: [list(leaf.shape), str(leaf.dtype), leaf.checksum()] for name, leaf in named}
    registry = type_handlers.create_type_handler_registry((StreamedLeaf, _Handler()))
    handlers = {
        "state": ocp.PyTreeCheckpointHandler(type_handler_registry=registry, use_zarr3=False),
        "meta": ocp.JsonCheckpointHandler(),
    }
    options = ocp.CheckpointManagerOptions(enable_async_checkpointing=False)
    with ocp.CheckpointManager(directory.absolute(), options=options, item_handlers=handlers) as manager:
        sealed = seal.seal(meta, 0, seal.Entry(), leaves)
        items = ocp.args.Composite(state=ocp.args.PyTreeSave(state), meta=ocp.args.JsonSave(sealed))
        manager.save(0, args=items)


def zeros(shape: tuple[int, ...], dtype: np.dtype) -> StreamedLeaf:
    """A leaf of zeros, which are allocated when they are read."""
    return StreamedLeaf(shape, np.dtype(dtype), lambda: iter([np.zeros(shape, dtype)]), stacked=False)


def in_memory(array: np.ndarray) -> StreamedLeaf:
    """A leaf that is backed by an array in memory."""
    return StreamedLeaf(array.shape, array.dtype, lambda: iter([array]), stacked=False)
