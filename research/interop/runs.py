"""Run directories of our own, as a source of weights: their model, and its parameters read one at a time."""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import orbax.checkpoint as ocp
from flax import linen as nn

from research.data.vocabulary import Vocabulary
from research.interop import models, streaming, strict_json
from research.interop.safetensors import DTYPES, Spec
from research.models import seq2seq, speech, video
from research.tasks import selecting
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

    config: Mapping[str, Any]
    model: type[nn.Module]
    fields: Mapping[str, Any]  # of the model
    tensors: Tensors
    imported: Mapping[str, Any]  # the report of the import that made it, or that it goes on from; else nothing
    backbone: type[nn.Module] | None = None  # of a model around one; `fields` are those of both

    def make_model(self, **settings: Any) -> nn.Module:
        """The model, in float32 unless `settings` say otherwise. Raises ValueError for one around a backbone."""
        if self.backbone:
            raise ValueError(
                f"a {self.model.__name__} cannot be exported; classifiers and models of text and sound can"
            )
        return models.make(self.model, self.fields, **settings)

    @property
    def special_ids(self) -> dict[str, int]:
        """Special tokens, by the names that transformers has for them: of the import, else of the run's vocabulary."""
        data = self.config["data"]
        if "special_ids" in self.imported:
            return dict(self.imported["special_ids"])
        if data["vocabulary"]:
            bos = Vocabulary.of_file(data["vocabulary"], data["vocab_size"]).bos
        else:
            bos = 0 if self.imported else 3  # as data/vocabulary.py trains them
        return {"pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": bos}


def is_run(folder: Path) -> bool:
    """Whether `folder` is a run directory that holds checkpoints."""
    return (folder / "config.json").is_file() and (folder / "checkpoints").is_dir()


def open_run(folder: Path) -> Run:
    """The run in `folder`, at the checkpoint that its config selects. Raises ValueError where there is none."""
    if not is_run(folder):
        raise ValueError(f"{folder} is no run directory with checkpoints; give the --workdir of a run")
    config = strict_json.read(folder / "config.json")
    if "model" not in config or "source" not in config:
        raise ValueError(f"{folder / 'config.json'} is not the config of a run; give the --workdir of a run")
    tensors = Tensors(_selected(folder, config))
    fields = {key: tuple(value) if isinstance(value, list) else value for key, value in config["model"].items()}
    imported = strict_json.read(folder / IMPORTED) if (folder / IMPORTED).is_file() else {}
    name = fields.pop("name", None)
    around = models.AROUND.get(config["source"].get("experiment"))
    if around:
        return Run(config, around, fields, tensors, imported, models.MODELS[name])
    if name is not None or "tubelet" in fields:
        fields["num_classes"] = tensors.specs["head/bias"].shape[0]
        return Run(config, models.MODELS[name] if name else video.VideoViT, fields, tensors, imported)
    fields |= {"vocab_size": tensors.specs["embedding"].shape[0], **_lengths(config, tensors.specs)}
    if "strides" not in fields:
        return Run(config, seq2seq.Seq2Seq, fields, tensors, imported)
    return Run(config, speech.Recogniser, fields | {"ctc": "ctc_head" in tensors.specs}, tensors, imported)


def _lengths(config: Mapping[str, Any], specs: Mapping[str, Spec]) -> dict[str, int]:
    """As text2text.build gives them to the model; of sounds, the longest that it hears."""
    data = config["data"]
    source = data["source_length"] if "source_length" in data else places(config)
    if "encoder/learned" in specs:
        source = specs["encoder/learned"].shape[0]
    return {
        "max_source_length": source,
        "max_target_length": max(data["target_length"], config["task"]["max_decode_length"]),
        "sentence_length": data.get("sentence_length", 0),
    }


def places(config: Mapping[str, Any]) -> int:
    """The places of the encoder that the longest sound takes."""
    data, shortening = config["data"], math.prod(config["model"]["strides"])
    samples, hop = (round(seconds * data["sample_rate"]) for seconds in (data["max_seconds"], data["hop_ms"] / 1000))
    return -(-samples // (hop * shortening))


def _selected(folder: Path, config: Mapping[str, Any]) -> Path:
    """The newest checkpoint, or the best one where the config selects it."""
    mode = selecting.mode(config.get("task", {}).get("select_by", ""))
    step = seal.select(folder / "checkpoints", config["train"]["select"] == "best", mode)
    if step is None:
        raise ValueError(f"{folder} holds no whole checkpoint; train it first")
    return folder / "checkpoints" / str(step)
