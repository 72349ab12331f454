"""Tensors of safetensors files, read one at a time, and files written one tensor at a time.

The format (github.com/huggingface/safetensors): 8 bytes with the length of the header, a JSON header of name ->
`{"dtype", "shape", "data_offsets"}`, then the data. It contains no code.
"""

import itertools
import json
import math
import reprlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from research.checkpoint.reading import TensorSpec
from research.files import opened_atomically
from research.interop import strict_json

DTYPES = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16, "I64": np.int64,
    "I32": np.int32, "I16": np.int16, "I8": np.int8, "U64": np.uint64, "U32": np.uint32, "U16": np.uint16,
    "U8": np.uint8, "BOOL": np.bool_,
}  # fmt: skip
_NAMES = {np.dtype(dtype): name for name, dtype in DTYPES.items()}
_LONGEST_HEADER = strict_json.MOST_BYTES  # as in the reference implementation
MOST_AXES = 8
LONGEST_AXIS = 2**31 - 1  # limit of JAX's indexing


class Safetensors:
    """The tensors of one file: `specs` by name, and `read`."""

    def __init__(self, path: Path):
        """Reads only the header. Raises ValueError for a file that is truncated or not a safetensors file."""
        self._path = path
        self.specs: dict[str, TensorSpec] = {}
        self._offsets: dict[str, int] = {}
        try:
            size = path.stat().st_size
            with path.open("rb") as file:
                length = int.from_bytes(file.read(8), "little")
                if size < 8 or length > _LONGEST_HEADER:
                    raise ValueError(
                        f"{path} is not a safetensors file: it does not begin with the length of a header; copy again"
                    )
                if size < 8 + length:
                    raise ValueError(
                        f"{path} is truncated: its header of {length} bytes ends after {size - 8}; copy it again"
                    )
                header = file.read(length)
        except OSError as error:
            raise ValueError(f"{path} cannot be read: {error.strerror}") from None
        entries = strict_json.parse(header, f"the header of {path}")
        entries.pop("__metadata__", None)
        ends = [self._add(name, entry, 8 + length, size) for name, entry in entries.items()]
        self._check_ranges(sorted(ends), 8 + length, size)

    def _add(self, name: str, entry: Any, start: int, size: int) -> tuple[int, int, str]:
        """Adds a tensor; returns its begin and end in the data, and its name."""
        if not isinstance(entry, dict) or not entry.keys() >= {"dtype", "shape", "data_offsets"}:
            raise ValueError(f"{name} in {self._path} lacks a dtype, shape or data_offsets; copy the file again")
        kind, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        if not isinstance(kind, str) or kind not in DTYPES:
            raise ValueError(
                f"{name} in {self._path} has the dtype {reprlib.repr(kind)}, which is not supported; choose from "
                f"{', '.join(DTYPES)}"
            )
        if not _is_whole(shape, LONGEST_AXIS) or len(shape) > MOST_AXES:
            raise ValueError(f"{name} in {self._path} has the invalid shape {reprlib.repr(shape)}; copy the file again")
        if not _is_whole(offsets, size) or len(offsets) != 2:
            raise ValueError(
                f"{name} in {self._path} has data_offsets={reprlib.repr(offsets)}, outside the file of {size} bytes, "
                "which is truncated or damaged; copy it again"
            )
        spec, (begin, end) = TensorSpec(tuple(shape), np.dtype(DTYPES[kind])), offsets
        if end - begin != _bytes(spec):
            raise ValueError(
                f"{name} in {self._path} is {spec.dtype}{list(shape)}, but has {end - begin} bytes; copy the file again"
            )
        if start + end > size:
            raise ValueError(f"{self._path} is truncated: {name} ends at byte {start + end} of {size}; copy it again")
        self.specs[name], self._offsets[name] = spec, start + begin
        return start + begin, start + end, name

    def _check_ranges(self, ranges: Sequence[tuple[int, int, str]], start: int, size: int) -> None:
        """Raises ValueError unless the tensors fill the data without gaps and overlaps, as the format requires."""
        for (_, end, first), (begin, _, second) in itertools.pairwise([(start, start, "the header"), *ranges]):
            if begin < end:
                raise ValueError(f"{first} and {second} in {self._path} share bytes; copy it again")
            if begin > end:
                raise ValueError(f"{self._path} has {begin - end} unused bytes before {second}; copy it again")
        last = max((end for _, end, _ in ranges), default=start)
        if last != size:
            raise ValueError(f"{self._path} has {size - last} unused bytes at its end; copy it again")

    def read(self, name: str) -> np.ndarray:
        """The tensor as a read-only memory map of the file, read when it is used."""
        spec = self.specs[name]
        if 0 in spec.shape:  # empty arrays cannot be memory-mapped
            return np.zeros(spec.shape, spec.dtype)
        return np.memmap(self._path, spec.dtype, "r", self._offsets[name], spec.shape or (1,)).reshape(spec.shape)


class Sharded:
    """The tensors of the shards in a `*.safetensors.index.json`."""

    def __init__(self, index: Path):
        """Raises ValueError for an index that lists a missing file, or a tensor that is not in its file."""
        where = strict_json.read(index).get("weight_map")
        if not isinstance(where, dict):
            raise ValueError(f'{index} is not an index of a checkpoint: it has no "weight_map"; copy it again')
        firsts: dict[str, str] = {}  # the first tensor of each file
        for name, file in where.items():
            if not isinstance(file, str) or Path(file).name != file or not file.endswith(".safetensors"):
                raise ValueError(
                    f"{index} lists {reprlib.repr(file)} for {name}; it must be a .safetensors file beside the index"
                )
            firsts.setdefault(file, name)
        files = sorted(firsts)
        for file in files:
            if not (index.parent / file).is_file():
                raise ValueError(f"{index} lists {file} for {firsts[file]}, but there is no such file; copy all shards")
        shards = {file: Safetensors(index.parent / file) for file in files}
        for name, file in where.items():
            if name not in shards[file].specs:
                raise ValueError(f"{index} lists {name} in {file}, but it is not there; copy both again")
        self._shards: dict[str, Safetensors] = {}
        for file, shard in shards.items():
            if twice := next((name for name in shard.specs if name in self._shards), None):
                raise ValueError(f"{index.parent} holds {twice} twice, in {file} too; copy all shards again")
            self._shards |= dict.fromkeys(shard.specs, shard)
        self.specs = {name: shard.specs[name] for name, shard in self._shards.items()}

    def read(self, name: str) -> np.ndarray:
        """See `Safetensors.read`."""
        return self._shards[name].read(name)


def write(path: Path, specs: Mapping[str, TensorSpec], read: Callable[[str], np.ndarray]) -> None:
    """Writes `read(name)` for every name, one at a time; `path` appears only when it is complete."""
    header: dict[str, Mapping[str, object]] = {"__metadata__": {"format": "pt"}}  # required by transformers
    offset = 0
    for name, spec in specs.items():
        end = offset + _bytes(spec)
        header[name] = {
            "dtype": _NAMES[spec.dtype], "shape": list(spec.shape), "data_offsets": [offset, end],
        }  # fmt: skip
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that the data are aligned
    with opened_atomically(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, spec in specs.items():
            array = np.ascontiguousarray(read(name), spec.dtype)
            if array.shape != spec.shape:
                raise AssertionError(f"{name} is {array.shape}, not {spec.shape}")
            file.write(array.reshape(-1).view(np.uint8).data)


def write_sharded(
    folder: Path, specs: Mapping[str, TensorSpec], read: Callable[[str], np.ndarray], most_bytes: int
) -> None:
    """Writes `model.safetensors` into `folder` or, if larger than `most_bytes`, shards and their index."""
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


def _split(specs: Mapping[str, TensorSpec], most_bytes: int) -> Iterable[dict[str, TensorSpec]]:
    shard, size = {}, 0
    for name, spec in specs.items():
        if shard and size + _bytes(spec) > most_bytes:
            yield shard
            shard, size = {}, 0
        shard[name] = spec
        size += _bytes(spec)
    yield shard


def _is_whole(values: Any, most: int) -> bool:
    """Whether `values` is a list of integers from 0 to `most`."""
    return isinstance(values, list) and all(type(value) is int and 0 <= value <= most for value in values)


def _bytes(spec: TensorSpec) -> int:
    return math.prod(spec.shape) * spec.dtype.itemsize
