"""Tensors of safetensors files, read one at a time, and files written one tensor at a time.

The format (github.com/huggingface/safetensors): 8 bytes that say how long the header is, a JSON header of name ->
`{"dtype", "shape", "data_offsets"}`, then the data. Nothing in it is ever executed.
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
LONGEST_AXIS = 2**31 - 1  # what JAX can index


class Safetensors:
    """The tensors of one file: `specs` by name, and `read`."""

    def __init__(self, path: Path):
        """Reads the header alone. Raises ValueError for a file that is cut short or is no safetensors file."""
        self._path = path
        self.specs: dict[str, TensorSpec] = {}
        self._offsets: dict[str, int] = {}
        try:
            size = path.stat().st_size
            with path.open("rb") as file:
                length = int.from_bytes(file.read(8), "little")
                if size < 8 or length > _LONGEST_HEADER:
                    raise ValueError(f"{path} is no safetensors file: it begins with no length of a header")
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
        """Takes a tensor; returns where it begins and ends in the file, and its name."""
        if not isinstance(entry, dict) or not entry.keys() >= {"dtype", "shape", "data_offsets"}:
            raise ValueError(f"{name} in {self._path} is described by no dtype, shape and data_offsets; copy it again")
        kind, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        if not isinstance(kind, str) or kind not in DTYPES:
            raise ValueError(f"{name} in {self._path} is {reprlib.repr(kind)}; known: {', '.join(DTYPES)}")
        if not _is_whole(shape, LONGEST_AXIS) or len(shape) > MOST_AXES:
            raise ValueError(f"{name} in {self._path} has the shape {reprlib.repr(shape)}, which is none")
        if not _is_whole(offsets, size) or len(offsets) != 2:
            raise ValueError(
                f"{name} in {self._path} lies at data_offsets={reprlib.repr(offsets)}, which a file of {size} bytes "
                "has not; it is truncated or damaged: copy it again"
            )
        spec, (begin, end) = TensorSpec(tuple(shape), np.dtype(DTYPES[kind])), offsets
        if end - begin != _bytes(spec):
            raise ValueError(f"{name} in {self._path} is {spec.dtype}{list(shape)}, but has {end - begin} bytes")
        if start + end > size:
            raise ValueError(f"{self._path} is truncated: {name} ends at byte {start + end} of {size}; copy it again")
        self.specs[name], self._offsets[name] = spec, start + begin
        return start + begin, start + end, name

    def _check_ranges(self, ranges: Sequence[tuple[int, int, str]], start: int, size: int) -> None:
        """The tensors fill the file without a gap and share no byte, as the format wants."""
        for (_, end, first), (begin, _, second) in itertools.pairwise([(start, start, "the header"), *ranges]):
            if begin < end:
                raise ValueError(f"{first} and {second} in {self._path} share bytes; copy it again")
            if begin > end:
                raise ValueError(f"{self._path} has {begin - end} bytes of no tensor before {second}; copy it again")
        last = max((end for _, end, _ in ranges), default=start)
        if last != size:
            raise ValueError(f"{self._path} has {size - last} bytes of no tensor at its end; copy it again")

    def read(self, name: str) -> np.ndarray:
        """The tensor as a read-only memory map of the file, whose pages are read when they are used."""
        spec = self.specs[name]
        if 0 in spec.shape:  # which cannot be mapped
            return np.zeros(spec.shape, spec.dtype)
        return np.memmap(self._path, spec.dtype, "r", self._offsets[name], spec.shape or (1,)).reshape(spec.shape)


class Sharded:
    """The tensors of several files that a `*.safetensors.index.json` lists."""

    def __init__(self, index: Path):
        """Raises ValueError for an index that names an absent file, or a tensor that is not in its file."""
        where = strict_json.read(index).get("weight_map")
        if not isinstance(where, dict):
            raise ValueError(f'{index} is no index of a checkpoint: it holds no "weight_map"')
        firsts: dict[str, str] = {}  # the first tensor of each file
        for name, file in where.items():
            if not isinstance(file, str) or Path(file).name != file or not file.endswith(".safetensors"):
                raise ValueError(
                    f"{index} names {reprlib.repr(file)} for {name}; a shard is a .safetensors file beside the index"
                )
            firsts.setdefault(file, name)
        files = sorted(firsts)
        for file in files:
            if not (index.parent / file).is_file():
                raise ValueError(f"{index} names {file} for {firsts[file]}, but there is no such file; copy all shards")
        shards = {file: Safetensors(index.parent / file) for file in files}
        for name, file in where.items():
            if name not in shards[file].specs:
                raise ValueError(f"{index} says that {name} is in {file}, but it is not; copy both again")
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
    """Writes `read(name)` of every name one after the other; `path` is there only when all of it is."""
    header: dict[str, Mapping[str, object]] = {"__metadata__": {"format": "pt"}}  # transformers refuses it otherwise
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
    """Whether `values` is a list of whole numbers from 0 to `most`."""
    return isinstance(values, list) and all(type(value) is int and 0 <= value <= most for value in values)


def _bytes(spec: TensorSpec) -> int:
    return math.prod(spec.shape) * spec.dtype.itemsize
