"""The parameters of a run with its low-rank updates added to their kernels."""

import numpy as np

from research.checkpoint.reading import CheckpointTensors
from research.models.dense import LORA_A, LORA_B
from research.train.lora import is_update

KERNEL = "kernel"


class MergedTensors:
    """The parameters of a run without its low-rank updates, which are added to their kernels."""

    def __init__(self, tensors: CheckpointTensors):
        self.whole = tensors
        self.specs = {path: spec for path, spec in tensors.specs.items() if not is_update(path)}
        self.trained_on = tensors.trained_on

    def read(self, name: str) -> np.ndarray:
        """A tensor; a kernel with its update, added in at least float32."""
        where, _, last = name.rpartition("/")
        if last != KERNEL or f"{where}/{LORA_A}" not in self.whole.specs:
            return self.whole.read(name)
        down, up = (self.whole.read(f"{where}/{each}") for each in (LORA_A, LORA_B))
        kernel = self.whole.read(name)
        dtype = np.promote_types(np.float32, kernel.dtype)
        return (kernel.astype(dtype) + product(down.astype(dtype), up.astype(dtype), kernel.shape)).astype(kernel.dtype)


def product(down: np.ndarray, up: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The update of a kernel of `shape`: A [layers?, *inputs, rank] times B [layers?, rank, *features]."""
    down, up = matrices(down, up, len(shape))
    return (down @ up).reshape(shape)


def matrices(down: np.ndarray, up: np.ndarray, axes: int) -> tuple[np.ndarray, np.ndarray]:
    """A [layers, inputs, rank] and B [layers, rank, features], of a kernel with so many `axes`; else of one layer."""
    stacked = down.ndim + up.ndim - axes - 2
    layers = down.shape[0] if stacked else 1
    return down.reshape(layers, -1, down.shape[-1]), up.reshape(layers, up.shape[stacked], -1)
