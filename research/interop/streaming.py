"""A checkpoint of a run, written one layer after the other: what it holds never has to be in memory at once."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import tensorstore
from orbax.checkpoint import type_handlers
from orbax.checkpoint._src.serialization import tensorstore_utils as ts_utils

from research.parallel.sharding import path_name
from research.train import seal

_AT_ONCE = 1 << 20  # words of a checksum


def checksum(parts: Iterable[np.ndarray], dtype: np.dtype) -> int:
    """What `Program.checksums` computes on a device, of an array whose `parts` follow one another."""
    total, position = 0, 0
    word = {1: np.uint8, 2: np.uint16}.get(dtype.itemsize, np.uint32)
    for part in parts:
        bits = np.ascontiguousarray(part).reshape(-1).view(word)
        for begin in range(0, bits.size, _AT_ONCE):
            words = bits[begin : begin + _AT_ONCE].astype(np.uint32)
            positions = np.arange(position, position + words.size, dtype=np.uint64).astype(np.uint32)
            factors = np.uint32(2) * (positions * np.uint32(0x9E3779B1)) + np.uint32(1)
            total += int((words * factors).sum(dtype=np.uint32))
            position += words.size
    return total & 0xFFFFFFFF


@dataclasses.dataclass(frozen=True)
class Leaf:
    """An array that is yet to be read: `parts()` are its rows one by one or, where it is not `stacked`, all of it."""

    shape: tuple[int, ...]
    dtype: np.dtype
    parts: Callable[[], Iterator[np.ndarray]]
    stacked: bool

    @property
    def size(self) -> int:
        """How many numbers it holds, as Orbax wants to know."""
        return math.prod(self.shape)

    def checksum(self) -> int:
        """As `Program.checksums` computes it of an array on a device."""
        return checksum(self.parts(), self.dtype)


class _Handler(type_handlers.NumpyHandler):
    """Writes leaves to the place where Orbax would write arrays, so that it reads them as it reads those."""

    async def serialize(self, values, infos, args=None):
        for value, info, arg in zip(values, infos, args, strict=True):
            await info.await_path_creation()
            shape = (1, *value.shape[1:]) if value.stacked else value.shape
            spec = ts_utils.build_array_write_spec(
                info=info, arg=arg, global_shape=value.shape, local_shape=shape, dtype=value.dtype,
                use_ocdbt=info.is_ocdbt_checkpoint, process_index=0 if info.is_ocdbt_checkpoint else None,
            )  # fmt: skip
            store = await tensorstore.open(tensorstore.Spec(spec.json), create=True, open=True, context=info.ts_context)
            for row, part in enumerate(value.parts()):
                await (store[row : row + 1].write(part[None]) if value.stacked else store.write(part))
        return []


def write(directory: Path, state: Any, meta: Mapping[str, Any]) -> None:
    """Writes step 0 of a run: `state` is a tree of `Leaf`; `meta` as `checkpoint.Checkpoints` wants it."""
    named = [(path_name(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(state)]
    leaves = {name: [list(leaf.shape), str(leaf.dtype), leaf.checksum()] for name, leaf in named}
    registry = type_handlers.create_type_handler_registry((Leaf, _Handler()))
    handlers = {
        "state": ocp.PyTreeCheckpointHandler(type_handler_registry=registry, use_zarr3=False),
        "meta": ocp.JsonCheckpointHandler(),
    }
    options = ocp.CheckpointManagerOptions(enable_async_checkpointing=False)
    with ocp.CheckpointManager(directory.absolute(), options=options, item_handlers=handlers) as manager:
        sealed = seal.seal(meta, 0, seal.Entry(), leaves)
        items = ocp.args.Composite(state=ocp.args.PyTreeSave(state), meta=ocp.args.JsonSave(sealed))
        manager.save(0, args=items)


def zeros(shape: tuple[int, ...], dtype: np.dtype) -> Leaf:
    """A leaf of zeros, which take no memory before they are read."""
    return Leaf(shape, np.dtype(dtype), lambda: iter([np.zeros(shape, dtype)]), stacked=False)


def whole(array: np.ndarray) -> Leaf:
    """A leaf that is there."""
    return Leaf(array.shape, array.dtype, lambda: iter([array]), stacked=False)
