"""Run directories of our own, as a source of weights: their model, and its parameters read one at a time."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import orbax.checkpoint as ocp
from flax import linen as nn

from research.interop.safetensors import DTYPES, Spec
from research.models import alexnet, convnext, resnet, seq2seq, vit

# By `config.model.name`; the experiments over text have one model, whose config has no name.
MODELS = {"vit": vit.ViT, "resnet": resnet.ResNet, "convnext": convnext.ConvNeXt, "alexnet": alexnet.AlexNet}
IMPORTED = "import.json"  # the report of an import in the run directory that it made
_KNOWN = {str(np.dtype(dtype)): np.dtype(dtype) for dtype in DTYPES.values()}


class Tensors:
    """What a checkpoint evaluates: `specs` by the paths of parameters and statistics, and `read`."""

    def __init__(self, step: Path):
        """Of the checkpoint in the folder `step`."""
        self._state = step / "state"
        leaves = json.loads((step / "meta" / "metadata").read_text())["leaves"]
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
        """The tensor, read whole; the last one is kept, since it may be asked for a layer or a shard at a time."""
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
            self._last = name, np.asarray(tree)
        return self._last[1]


@dataclasses.dataclass(frozen=True)
class Run:
    """A run directory that holds a checkpoint."""

    config: Mapping[str, Any]
    model: type[nn.Module]
    fields: Mapping[str, Any]  # of the model
    tensors: Tensors
    imported: bool  # whether it is what an import made, or goes on from there

    def make_model(self, **settings: Any) -> nn.Module:
        """The model, in float32 unless `settings` say otherwise."""
        return self.model(**{**self.fields, **settings})


def is_run(folder: Path) -> bool:
    """Whether `folder` is a run directory that holds checkpoints."""
    return (folder / "config.json").is_file() and (folder / "checkpoints").is_dir()


def open_run(folder: Path) -> Run:
    """The run in `folder`, at the checkpoint that its config selects. Raises ValueError where there is none."""
    if not is_run(folder):
        raise ValueError(f"{folder} is no run directory with checkpoints; give the --workdir of a run")
    config = json.loads((folder / "config.json").read_text())
    if "model" not in config or "source" not in config:
        raise ValueError(f"{folder / 'config.json'} is not the config of a run; give the --workdir of a run")
    tensors = Tensors(_selected(folder, config))
    fields = {key: tuple(value) if isinstance(value, list) else value for key, value in config["model"].items()}
    name, imported = fields.pop("name", None), (folder / IMPORTED).is_file()
    if name is None:
        fields |= {"vocab_size": tensors.specs["embedding"].shape[0], **_lengths(config)}
        return Run(config, seq2seq.Seq2Seq, fields, tensors, imported)
    fields["num_classes"] = tensors.specs["head/bias"].shape[0]
    return Run(config, MODELS[name], fields, tensors, imported)


def _lengths(config: Mapping[str, Any]) -> dict[str, int]:
    """As text2text.build gives them to the model."""
    longest = max(config["data"]["target_length"], config["task"]["max_decode_length"])
    return {"max_source_length": config["data"]["source_length"], "max_target_length": longest}


def _selected(folder: Path, config: Mapping[str, Any]) -> Path:
    """The newest checkpoint, or the best one where the config selects it."""
    least = config.get("task", {}).get("select_by") in ("loss", "perplexity")
    options = ocp.CheckpointManagerOptions(
        read_only=True, best_fn=lambda metrics: metrics["score"], best_mode="min" if least else "max"
    )
    checkpoints = (folder / "checkpoints").absolute()
    with ocp.CheckpointManager(checkpoints, options=options) as manager:
        step = manager.best_step() if config["train"]["select"] == "best" else manager.latest_step()
    if step is None:
        raise ValueError(f"{folder} holds no whole checkpoint; train it first")
    return checkpoints / str(step)
