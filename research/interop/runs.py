"""Run directories as a source of weights: the task, and its parameters, read one at a time."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from flax import linen as nn

from research import config as config_lib
from research.checkpoint import seal
from research.checkpoint.reading import CheckpointTensors
from research.data import recorded
from research.interop import strict_json
from research.interop.merged import MergedTensors
from research.train.lora import is_update

IMPORTED = "import.json"  # the report of an import, in the run directory that it created


@dataclasses.dataclass(frozen=True)
class SavedRun:
    """A run directory that holds a checkpoint."""

    config: Any
    task: Any
    tensors: CheckpointTensors | MergedTensors
    imported: Mapping[str, Any]  # the report of the import that created it; {} for a trained run

    @property
    def model(self) -> nn.Module:
        """The model of the task."""
        return self.task.model

    @property
    def special_ids(self) -> dict[str, int]:
        """Special token ids under the names of transformers: from the import, else from the run's vocabulary."""
        if "special_ids" in self.imported:
            return dict(self.imported["special_ids"])
        return {"pad_token_id": 0, "eos_token_id": self.task.eos, "decoder_start_token_id": self.task.bos}


def is_run(folder: Path) -> bool:
    """Whether `folder` is a run directory that holds checkpoints."""
    return (folder / "config.json").is_file() and (folder / "checkpoints").is_dir()


def open_run(folder: Path, experiments: config_lib.Experiments) -> SavedRun:
    """The run in `folder`, at the checkpoint that its config selects. Raises ValueError if there is none.

    `experiments` maps the name of an experiment to the class of its configs.
    """
    if not is_run(folder):
        raise ValueError(f"{folder} is not a run directory with checkpoints; give the --workdir of a run")
    content = strict_json.read(folder / "config.json")
    if "model" not in content or "source" not in content:
        raise ValueError(f"{folder / 'config.json'} is not the config of a run; give the --workdir of a run")
    config = config_lib.of_run(experiments(config_lib.source_of(content)["experiment"]), content)
    imported = strict_json.read(folder / IMPORTED) if (folder / IMPORTED).is_file() else {}
    task = _task(config, folder, imported)
    tensors = CheckpointTensors(_selected(folder, config, task))
    has_updates = any(map(is_update, tensors.specs))
    return SavedRun(config, task, MergedTensors(tensors, task.logical_axes) if has_updates else tensors, imported)


def _task(config: Any, folder: Path, imported: Mapping[str, Any]) -> Any:
    """The task for the data that the run has recorded or, for an imported run, for the sizes in its report."""
    known = recorded.read(folder)
    if known or "sizes" not in imported:
        return config.build(known)[0]
    try:
        return make_task(config, imported["sizes"])
    except TypeError:
        raise ValueError(f"{folder / IMPORTED} is damaged: its sizes are {imported['sizes']!r}; import again") from None


@runtime_checkable
class _OfSizes(Protocol):
    def make_task(self, **sizes: Any) -> Any: ...


def make_task(config: config_lib.Config, sizes: Mapping[str, Any]) -> Any:
    """The task of an imported config for given sizes, without data."""
    assert isinstance(config, _OfSizes), f"{type(config).__name__} makes no task without data"
    return config.make_task(**sizes)


def _selected(folder: Path, config: Any, task: Any) -> Path:
    """The newest checkpoint, or the best one if the config selects it."""
    step = seal.select(folder / "checkpoints", config.train.select == "best", task.selection[1])
    if step is None:
        raise ValueError(f"{folder} holds no intact checkpoint; train it first")
    return folder / "checkpoints" / str(step)
