"""Tensors of safetensors files, read one at a time, and files written one tensor at a time.

The format (github.com/huggingface/safetensors): 8 bytes that say how long the header is, a JSON header of name ->
`{"dtype", "shape", "data_offsets"}`, then the data. Nothing in it is ever executed.
"""

import json
import math
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import ml_dtypes
import numpy as np

DTYPES = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16, "I64": np.int64,
    "I32": np.int32, "I16": np.int16, "I8": np.int8, "U64": np.uint64, "U32": np.uint32, "U16": np.uint16,
    "U8": np.uint8, "BOOL": np.bool_,
}  # fmt: skip
_NAMES = {np.dtype(dtype): name for name, dtype in DTYPES.items()}
_LONGEST_HEADER = 100_000_000  # bytes, as in the reference implementation


class Spec(NamedTuple):
    """What a tensor is, without its values."""

    shape: tuple[int, ...]
    dtype: np.dtype


class Safetensors:
    """The tensors of one file: `specs` by name, and `read`."""

    def __init__(self, path: Path):
        """Reads the header alone. Raises ValueError for a file that is cut short or is no safetensors file."""
        self._path = path
        self.specs: dict[str, Spec] = {}
        self._offsets: dict[str, int] = {}
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > _LONGEST_HEADER:
                raise ValueError(f"{path} is no safetensors file: it begins with no length of a header")
            header = file.read(length)
        if len(header) < length:
            raise ValueError(
                f"{path} is truncated: its header of {length} bytes ends after {len(header)}; copy it again"
            )
        try:
            entries = json.loads(header)
            for name, entry in entries.items():
                if name != "__metadata__":
                    self._add(name, entry, 8 + length, size)
        except (AttributeError, KeyError, TypeError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ValueError(f"{path} is no safetensors file: its header cannot be read ({error!r})") from None

    def _add(self, name: str, entry: Mapping, start: int, size: int) -> None:
        if entry["dtype"] not in DTYPES:
            raise ValueError(f"{name} in {self._path} is {entry['dtype']}; known: {', '.join(DTYPES)}")
        shape, dtype = tuple(map(int, entry["shape"])), np.dtype(DTYPES[entry["dtype"]])
        begin, end = entry["data_offsets"]
        if end - begin != math.prod(shape) * dtype.itemsize or begin < 0:
            raise ValueError(f"{name} in {self._path} is {dtype}{list(shape)}, but has {end - begin} bytes")
        if start + end > size:
            raise ValueError(f"{self._path} is truncated: {name} ends at byte {start + end} of {size}; copy it again")
        self.specs[name], self._offsets[name] = Spec(shape, dtype), start + begin

    def read(self, name: str) -> np.ndarray:
        """The tensor as it lies in the file: only what is used of it is read, and kept no longer than the array."""
        spec = self.specs[name]
        if 0 in spec.shape:  # which cannot be mapped
            return np.zeros(spec.shape, spec.dtype)
        return np.memmap(self._path, spec.dtype, "r", self._offsets[name], spec.shape or (1,)).reshape(spec.shape)


class Sharded:
    """The tensors of several files that a `*.safetensors.index.json` lists."""

    def __init__(self, index: Path):
        """Raises ValueError for an index that names an absent file, or a tensor that is not in its file."""
        try:
            where = json.loads(index.read_text("utf-8"))["weight_map"]
            files = sorted(set(where.values()))
        except (AttributeError, KeyError, TypeError, UnicodeDecodeError, json.JSONDecodeError):
            raise ValueError(f'{index} is no index of a checkpoint: it holds no "weight_map"') from None
        for file in files:
            first = next(name for name, other in where.items() if other == file)
            if Path(file).name != file or not file.endswith(".safetensors"):
                raise ValueError(f"{index} names {file!r} for {first}; a shard is a .safetensors file beside the index")
            if not (index.parent / file).is_file():
                raise ValueError(f"{index} names {file} for {first}, but there is no such file; copy all shards")
        shards = {file: Safetensors(index.parent / file) for file in files}
        for name, file in where.items():
            if name not in shards[file].specs:
                raise ValueError(f"{index} says that {name} is in {file}, but it is not; copy both again")
        self._shards = {name: shard for shard in shards.values() for name in shard.specs}
        self.specs = {name: shard.specs[name] for name, shard in self._shards.items()}

    def read(self, name: str) -> np.ndarray:
        """See `Safetensors.read`."""
        return self._shards[name].read(name)


def write(path: Path, specs: Mapping[str, Spec], read: Callable[[str], np.ndarray]) -> None:
    """Writes `read(name)` of every name one after the other; `path` is there only when all of it is."""
    header, offset = {"__metadata__": {"format": "pt"}}, 0  # without which transformers refuses the file
    for name, spec in specs.items():
        end = offset + _bytes(spec)
        header[name] = {
            "dtype": _NAMES[spec.dtype], "shape": list(spec.shape), "data_offsets": [offset, end],
        }  # fmt: skip
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that the data are aligned
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for name, spec in specs.items():
                array = np.ascontiguousarray(read(name), spec.dtype)
                if array.shape != spec.shape:
                    raise AssertionError(f"{name} is {array.shape}, not {spec.shape}")
                file.write(array.reshape(-1).view(np.uint8))
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_sharded(folder: Path, specs: Mapping[str, Spec], read: Callable[[str], np.ndarray], most_bytes: int) -> None:
    """`model.safetensors` in `folder` or, where it would be larger than `most_bytes`, shards and their index."""
    shards = list(_split(specs, most_bytes))
    if len(shards) == 1:
        write(folder / "model.safetensors", shards[0], read)
        return
    where = {}
    for number, shard in enumerate(shards, start=1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        write(folder / file, shard, read)
        where |= dict.fromkeys(shard, file)
    total = sum(map(_bytes, specs.values()))
    index = {"metadata": {"total_size": total}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def _split(specs: Mapping[str, Spec], most_bytes: int) -> Iterable[dict[str, Spec]]:
    shard, size = {}, 0
    for name, spec in specs.items():
        if shard and size + _bytes(spec) > most_bytes:
            yield shard
            shard, size = {}, 0
        shard[name] = spec
        size += _bytes(spec)
    yield shard


def _bytes(spec: Spec) -> int:
    return math.prod(spec.shape) * spec.dtype.itemsize
