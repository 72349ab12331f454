"""The parameters of a checkpoint, read one at a time, without a program or a mesh."""

from pathlib import Path
from typing import NamedTuple

import ml_dtypes  # noqa: F401  so that NumPy knows bfloat16 by its name
import numpy as np
import orbax.checkpoint as ocp

from research.checkpoint import leaves as leaf_names
from research.checkpoint import seal
from research.checkpoint.checksums import array_checksum


class TensorSpec(NamedTuple):
    """Shape and dtype of a tensor."""

    shape: tuple[int, ...]
    dtype: np.dtype


class CheckpointTensors:
    """The evaluated variables of a checkpoint: `specs` by path of parameter or statistic, and `read`."""

    def __init__(self, step: Path):
        """Opens the checkpoint in the folder `step`."""
        self._step, self._state = step, step / "state"
        meta = seal.read(step)
        leaves = meta["leaves"]
        metadata = meta.get("frozen", {})  # see frozen.py
        self._frozen: dict[str, str] = metadata.get("leaves", {})
        self._beside = step.parent / metadata.get("folder", "")
        self._checksums = {name: leaf[2] for name, leaf in leaves.items()}
        self.trained_on: str = meta["data_fingerprint"] or ""  # fingerprint of its data; "" for imported weights
        self._leaves = leaf_names.evaluated(leaves)
        self.specs = {
            path: TensorSpec(tuple(leaves[name][0]), np.dtype(leaves[name][1])) for path, name in self._leaves.items()
        }
        self.step: int = meta["step"]
        # Path -> shape, dtype and checksum: two checkpoints with the same have the same weights.
        self.identity = {path: leaves[name] for path, name in self._leaves.items()}
        self._last: tuple[str, np.ndarray] | None = None

    def read(self, name: str) -> np.ndarray:
        """A tensor; the last one is cached, since callers may slice it by layer or shard.

        Raises ValueError if its checksum differs.
        """
        if self._last is None or self._last[0] != name:
            self._last = None
            tensor = _read(*self._where(self._leaves[name]))
            if array_checksum([tensor], tensor.dtype) != self._checksums[self._leaves[name]]:
                folder, _ = self._where(self._leaves[name])
                damaged = f"checkpoint {self._step}" if folder == self._state else str(folder)
                raise ValueError(f"{damaged} is damaged (the checksum of {name} differs); move it away")
            self._last = name, tensor
        return self._last[1]

    def _where(self, leaf: str) -> tuple[Path, str]:
        """The folder of a leaf, and its path in it."""
        return (self._beside, self._frozen[leaf]) if leaf in self._frozen else (self._state, leaf)


def _read(folder: Path, leaf: str) -> np.ndarray:
    keys = leaf.split("/")
    item, how = 0, ocp.RestoreArgs(restore_type=np.ndarray)
    for key in reversed(keys):
        item, how = {key: item}, {key: how}
    with ocp.PyTreeCheckpointer() as checkpointer:
        arguments = ocp.args.PyTreeRestore(item=item, restore_args=how, partial_restore=True)
        tree = checkpointer.restore(folder.absolute(), args=arguments)
    for key in keys:
        tree = tree[key]
    return np.asarray(tree)
