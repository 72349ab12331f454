"""The parameters of a run with its adapters merged into their dense layers."""

import numpy as np

from research.checkpoint.reading import CheckpointTensors
from research.models.dense import IA3_IN, IA3_OUT, LORA_A, LORA_B
from research.parallel.sharding import Table
from research.train import lora

KERNEL, BIAS = "kernel", "bias"


class MergedTensors:
    """The parameters of a run; its LoRA updates and the scales of IA3 are merged into their layers."""

    def __init__(self, tensors: CheckpointTensors, table: Table):
        """`table` is that of the model, from parameter path to logical axes."""
        self.whole, self._table = tensors, table
        self.specs = {path: spec for path, spec in tensors.specs.items() if not lora.is_update(path)}
        self.trained_on = tensors.trained_on

    def read(self, name: str) -> np.ndarray:
        """A tensor; those of a layer with an adapter are computed in at least float32."""
        where, _, last = name.rpartition("/")
        values = self.whole.read(name)
        found = {
            part: self.whole.read(f"{where}/{part}")
            for part in (LORA_A, LORA_B, IA3_IN, IA3_OUT)
            if last in (KERNEL, BIAS) and f"{where}/{part}" in self.whole.specs
        }
        if not found:
            return values
        dtype = np.promote_types(np.float32, values.dtype)
        found = {part: each.astype(dtype) for part, each in found.items()}
        merged = values.astype(dtype)
        if last == BIAS:
            return (merged * found.get(IA3_OUT, 1)).astype(values.dtype)
        if LORA_A in found:
            merged += product(found[LORA_A], found[LORA_B], merged.shape)
        stacked, inputs = lora.axes(name, self._table)
        lead, features = merged.shape[:stacked], merged.shape[stacked + inputs :]
        if IA3_IN in found:
            merged *= found[IA3_IN].reshape(*merged.shape[: stacked + inputs], *[1] * len(features))
        if IA3_OUT in found:
            merged *= found[IA3_OUT].reshape(*lead, *[1] * inputs, *features)
        return merged.astype(values.dtype)


def product(down: np.ndarray, up: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The update of a kernel of `shape`: A [layers?, *inputs, rank] times B [layers?, rank, *features]."""
    down, up = matrices(down, up, len(shape))
    return (down @ up).reshape(shape)


def matrices(down: np.ndarray, up: np.ndarray, axes: int) -> tuple[np.ndarray, np.ndarray]:
    """A [layers, inputs, rank] and B [layers, rank, features] for a kernel with `axes` axes; 1 layer if unstacked."""
    stacked = down.ndim + up.ndim - axes - 2
    layers = down.shape[0] if stacked else 1
    return down.reshape(layers, -1, down.shape[-1]), up.reshape(layers, up.shape[stacked], -1)
