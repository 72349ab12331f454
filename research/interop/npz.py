"""Tensors of an .npz archive in the format of big_vision: read one at a time, never with pickles."""

import lzma
import math
import reprlib
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path

import ml_dtypes
import numpy as np

from research.files import opened_atomically
from research.interop.safetensors import LONGEST_AXIS, MOST_AXES, TensorSpec

_BFLOAT16 = np.dtype("V2")  # how NumPy stores bfloat16
_MOST_EXPANSION = 100  # largest compression ratio; untrained weights may be all zeros
_ALWAYS_ALLOWED = 1 << 24  # bytes
# Errors of zipfile for archives that are damaged, encrypted or compressed by an unknown method, and of NumPy for
# members that are not arrays.
_DAMAGED = (
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, RuntimeError, NotImplementedError, struct.error,
    OverflowError, UnicodeDecodeError,
)  # fmt: skip
_NO_ARRAY = (KeyError, ValueError, TypeError, SyntaxError, MemoryError, RecursionError, EOFError)


class Npz:
    """The tensors of one archive: `specs` by name, and `read`."""

    def __init__(self, path: Path):
        """Reads only the headers. Raises ValueError for a truncated file, or one with pickled Python objects."""
        self._path = path
        self.specs: dict[str, TensorSpec] = {}
        try:
            with zipfile.ZipFile(path) as archive:
                self._check_size(archive, path.stat().st_size)
                for member in archive.infolist():
                    self._add(archive, member)
        except _DAMAGED as error:
            raise ValueError(f"{path} is not a .npz archive, or is truncated ({error}); copy it again") from None

    def _check_size(self, archive: zipfile.ZipFile, stored: int) -> None:
        total = sum(member.file_size for member in archive.infolist())
        if total > _MOST_EXPANSION * stored + _ALWAYS_ALLOWED:
            raise ValueError(
                f"{self._path} has {stored:,} bytes that expand to {total:,}, more than {_MOST_EXPANSION} times as "
                "many, which is implausible for weights; write it again with numpy.savez"
            )

    def _add(self, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> None:
        name = member.filename.removesuffix(".npy")
        if name == member.filename or not name.isprintable():
            raise ValueError(
                f"{member.filename[:80]!r} in {self._path} is not a NumPy array; write it with numpy.savez"
            )
        if name in self.specs:
            raise ValueError(f"{name} is in {self._path} twice; write it again with numpy.savez")
        with archive.open(member) as file:
            try:
                major, _ = np.lib.format.read_magic(file)
                read = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}[major]
                shape, _, dtype = read(file)
                begin = file.tell()
            except _NO_ARRAY:
                raise ValueError(
                    f"{member.filename} in {self._path} is not a NumPy array; write it with numpy.savez"
                ) from None
        if dtype.hasobject:
            raise ValueError(
                f"{member.filename} in {self._path} holds pickled Python objects, which could run code; "
                "write plain arrays with numpy.savez"
            )
        if len(shape) > MOST_AXES or any(not 0 <= side <= LONGEST_AXIS for side in shape):
            raise ValueError(
                f"{member.filename} in {self._path} has the invalid shape {reprlib.repr(shape)}; copy the file again"
            )
        if begin + math.prod(shape) * dtype.itemsize != member.file_size:
            raise ValueError(
                f"{member.filename} in {self._path} is {dtype}{list(shape)}, but has {member.file_size - begin} bytes; "
                "copy the file again"
            )
        self.specs[name] = TensorSpec(shape, np.dtype(ml_dtypes.bfloat16) if dtype == _BFLOAT16 else dtype)

    def read(self, name: str) -> np.ndarray:
        """The whole tensor."""
        try:
            with zipfile.ZipFile(self._path) as archive, archive.open(f"{name}.npy") as file:
                array = np.lib.format.read_array(file, allow_pickle=False)
        except (*_DAMAGED, *_NO_ARRAY) as error:
            raise ValueError(f"{name} in {self._path} is damaged ({error}); copy the file again") from None
        return array.view(self.specs[name].dtype)


def write(path: Path, names: Iterable[str], read: Callable[[str], np.ndarray]) -> None:
    """Writes `read(name)` for every name, one at a time; `path` appears only when it is complete."""
    with (
        opened_atomically(path) as archived,
        zipfile.ZipFile(archived, "w", zipfile.ZIP_STORED, allowZip64=True) as archive,
    ):
        for name in names:
            array = np.ascontiguousarray(read(name))
            if array.dtype == ml_dtypes.bfloat16:
                array = array.view(_BFLOAT16)
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, array, allow_pickle=False)
