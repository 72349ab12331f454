"""Tensors of a .pth file of `torch.save(model.state_dict(), ...)`, read by torch with `weights_only`."""

import importlib.util
import pickle
import reprlib
import warnings
import zipfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from research.interop.safetensors import TensorSpec

SUFFIX = ".pth"
# Errors of torch for files that are damaged, or rejected by `weights_only`.
_REFUSED = (
    pickle.UnpicklingError, RuntimeError, EOFError, OSError, zipfile.BadZipFile, ValueError, TypeError, KeyError,
    IndexError, AttributeError, ImportError, OverflowError, MemoryError,
)  # fmt: skip
_FIX = "only a state dict, with tensors by name, is read; torch.save(model.state_dict(), ...) writes one"


class Pth:
    """The tensors of one file, all of which are in memory: `specs` by name, and `read`."""

    def __init__(self, path: Path):
        """Raises ValueError if torch is not installed, or if the file is damaged or holds more than tensors."""
        if importlib.util.find_spec("torch") is None:
            raise ValueError(f"{path} can be read only with torch; install Tessera with the extra [interop]")
        import torch  # pyright: ignore[reportMissingImports]

        try:
            with warnings.catch_warnings(action="ignore"):  # about files that are rejected below
                found = torch.load(path, map_location="cpu", weights_only=True)
        except _REFUSED as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ValueError(
                f"{path} is rejected by torch with weights_only ({reprlib.repr(reason)}); {_FIX}"
            ) from None
        self._tensors = {name: _array(path, name, value) for name, value in _entries(path, found)}
        self.specs = {name: TensorSpec(value.shape, value.dtype) for name, value in self._tensors.items()}

    def read(self, name: str) -> np.ndarray:
        """The tensor."""
        return self._tensors[name]


def _entries(path: Path, found: Any) -> list[tuple[str, Any]]:
    if not isinstance(found, dict) or not found:
        raise ValueError(f"{path} holds {reprlib.repr(found)}; {_FIX}")
    if other := next((name for name in found if not isinstance(name, str) or not name.isprintable()), None):
        raise ValueError(f"{path} holds an entry {reprlib.repr(other)}, whose name is not a string; {_FIX}")
    return list(found.items())


def _array(path: Path, name: str, value: Any) -> np.ndarray:
    import torch  # pyright: ignore[reportMissingImports]

    if not isinstance(value, torch.Tensor):
        raise ValueError(f"{path} holds {name}, which is {type(value).__name__} and no tensor; {_FIX}")
    if value.layout != torch.strided or value.is_quantized or value.is_complex() or value.device.type != "cpu":
        raise ValueError(f"{path} holds {name}, which is not a dense tensor of plain numbers; {_FIX}")
    value = value.detach().contiguous()
    if value.dtype == torch.bfloat16:  # not supported by torch's conversion to NumPy
        return value.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return value.numpy()
