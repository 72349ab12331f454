"""Run directories of our own, as a source of weights: their task, and its parameters read one at a time."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import orbax.checkpoint as ocp
from flax import linen as nn

from research import config as config_lib
from research.data import recorded
from research.interop import streaming, strict_json
from research.interop.safetensors import DTYPES, Spec
from research.train import seal

IMPORTED = "import.json"  # the report of an import in the run directory that it made
_KNOWN = {str(np.dtype(dtype)): np.dtype(dtype) for dtype in DTYPES.values()}


class Tensors:
    """What a checkpoint evaluates: `specs` by the paths of parameters and statistics, and `read`."""

    def __init__(self, step: Path):
        """Of the checkpoint in the folder `step`."""
        self._step, self._state = step, step / "state"
        meta = seal.read(step)
        leaves = meta["leaves"]
        self._checksums = {name: leaf[2] for name, leaf in leaves.items()}
        self.trained_on: str = meta["data_fingerprint"] or ""  # of its data; none where weights were imported
        averaged = any(name.startswith("ema/") for name in leaves)
        self._places = {}
        for name in leaves:
            field, *path = name.split("/")
            if field == ("ema" if averaged else "params" if len(path) and field == "params" else "mutable"):
                self._places["/".join(path[1:] if field != "params" else path)] = name
        self.specs = {
            path: Spec(tuple(leaves[name][0]), _KNOWN[leaves[name][1]]) for path, name in self._places.items()
        }
        self._last: tuple[str, np.ndarray] | None = None

    def read(self, name: str) -> np.ndarray:
        """The tensor, read whole; the last one is kept, since it may be asked for a layer or a shard at a time.

        Raises ValueError where it is not what the run has saved.
        """
        if self._last is None or self._last[0] != name:
            self._last = None
            item, how = 0, ocp.RestoreArgs(restore_type=np.ndarray)
            for key in reversed(self._places[name].split("/")):
                item, how = {key: item}, {key: how}
            with ocp.PyTreeCheckpointer() as checkpointer:
                arguments = ocp.args.PyTreeRestore(item=item, restore_args=how, partial_restore=True)
                tree = checkpointer.restore(self._state.absolute(), args=arguments)
            for key in self._places[name].split("/"):
                tree = tree[key]
            tensor = np.asarray(tree)
            if streaming.checksum([tensor], tensor.dtype) != self._checksums[self._places[name]]:
                raise ValueError(f"checkpoint {self._step} is damaged (the checksum of {name} differs); move it away")
            self._last = name, tensor
        return self._last[1]


@dataclasses.dataclass(frozen=True)
class Run:
    """A run directory that holds a checkpoint."""

    config: Any
    task: Any
    tensors: Tensors
    imported: Mapping[str, Any]  # the report of the import that made it; else nothing

    @property
    def model(self) -> nn.Module:
        """The model of its task."""
        return self.task.model

    @property
    def special_ids(self) -> dict[str, int]:
        """Special tokens, by the names that transformers has for them: of the import, else of the run's vocabulary."""
        if "special_ids" in self.imported:
            return dict(self.imported["special_ids"])
        return {"pad_token_id": 0, "eos_token_id": self.task.eos, "decoder_start_token_id": self.task.bos}


def is_run(folder: Path) -> bool:
    """Whether `folder` is a run directory that holds checkpoints."""
    return (folder / "config.json").is_file() and (folder / "checkpoints").is_dir()


def open_run(folder: Path, experiments: config_lib.Experiments) -> Run:
    """The run in `folder`, at the checkpoint that its config selects; `experiments` gives the class of that config.

    Raises ValueError where there is none.
    """
    if not is_run(folder):
        raise ValueError(f"{folder} is no run directory with checkpoints; give the --workdir of a run")
    content = strict_json.read(folder / "config.json")
    if "model" not in content or "source" not in content:
        raise ValueError(f"{folder / 'config.json'} is not the config of a run; give the --workdir of a run")
    config = config_lib.of_run(experiments(config_lib.source_of(content)["experiment"]), content)
    imported = strict_json.read(folder / IMPORTED) if (folder / IMPORTED).is_file() else {}
    task = _task(config, folder, imported)
    return Run(config, task, Tensors(_selected(folder, config, task)), imported)


def _task(config: Any, folder: Path, imported: Mapping[str, Any]) -> Any:
    """The task, for the data that the run has recorded or, where it has seen none, of the sizes of what it imported."""
    known = recorded.read(folder)
    if known or "sizes" not in imported:
        return config.build(known)[0]
    try:
        return config.make_task(**imported["sizes"])
    except TypeError:
        raise ValueError(f"{folder / IMPORTED} is damaged: its sizes are {imported['sizes']!r}") from None


def _selected(folder: Path, config: Any, task: Any) -> Path:
    """The newest checkpoint, or the best one where the config selects it."""
    step = seal.select(folder / "checkpoints", config.train.select == "best", task.selection[1])
    if step is None:
        raise ValueError(f"{folder} holds no whole checkpoint; train it first")
    return folder / "checkpoints" / str(step)
