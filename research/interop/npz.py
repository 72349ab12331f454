"""Tensors of an .npz archive, as big_vision writes them: read one at a time, never with pickles."""

import os
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

import ml_dtypes
import numpy as np

from research.interop.safetensors import Spec

_BFLOAT16 = np.dtype("V2")  # what NumPy makes of a bfloat16 that it does not know


class Npz:
    """The tensors of one archive: `specs` by name, and `read`."""

    def __init__(self, path: Path):
        """Reads the headers alone. Raises ValueError for a file that is cut short, or holds Python objects."""
        self._path = path
        self.specs: dict[str, Spec] = {}
        try:
            with zipfile.ZipFile(path) as archive:
                for member in archive.infolist():
                    self.specs[member.filename.removesuffix(".npy")] = self._header(archive, member)
        except zipfile.BadZipFile as error:
            raise ValueError(f"{path} is no .npz archive, or is truncated ({error}); copy it again") from None

    def _header(self, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Spec:
        with archive.open(member) as file:
            try:
                major, _ = np.lib.format.read_magic(file)
                read = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}[major]
                shape, _, dtype = read(file)
            except (KeyError, ValueError):
                raise ValueError(f"{member.filename} in {self._path} is no NumPy array") from None
        if dtype.hasobject:
            raise ValueError(
                f"{member.filename} in {self._path} holds pickled Python objects, which could run code; "
                "write plain arrays with numpy.savez"
            )
        return Spec(shape, np.dtype(ml_dtypes.bfloat16) if dtype == _BFLOAT16 else dtype)

    def read(self, name: str) -> np.ndarray:
        """The tensor, read whole."""
        try:
            with zipfile.ZipFile(self._path) as archive, archive.open(f"{name}.npy") as file:
                array = np.lib.format.read_array(file, allow_pickle=False)
        except (zipfile.BadZipFile, EOFError, ValueError) as error:
            raise ValueError(f"{name} in {self._path} is damaged ({error}); copy the file again") from None
        return array.view(self.specs[name].dtype)


def write(path: Path, names: Iterable[str], read: Callable[[str], np.ndarray]) -> None:
    """Writes `read(name)` of every name one after the other; `path` is there only when all of it is."""
    partial = path.with_name(path.name + ".partial")
    try:
        with zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
            for name in names:
                array = np.ascontiguousarray(read(name))
                if array.dtype == ml_dtypes.bfloat16:
                    array = array.view(_BFLOAT16)
                with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                    np.lib.format.write_array(file, array, allow_pickle=False)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
