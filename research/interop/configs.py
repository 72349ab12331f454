"""The config of a run that begins with an imported checkpoint: what the checkpoint says, and settings to start with."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

from research.interop.checkpoints import Checkpoint, channels
from research.interop.models import MODELS
from research.models.seq2seq import Seq2Seq
from research.models.speech import Recogniser

_VOCABULARY = "spiece.model"  # what T5's is called
_NAMES = {model: name for name, model in MODELS.items()}
# Which experiments take from their data.
_LENGTHS = ("vocab_size", "max_source_length", "max_target_length", "sentence_length")


def make(checkpoint: Checkpoint, folder: Path, target: Path) -> dict[str, Any]:
    """The config; what it needs of the checkpoint is copied to `folder`, which will be called `target`."""
    if issubclass(checkpoint.model, Recogniser):
        return _sound_config(checkpoint)
    if issubclass(checkpoint.model, Seq2Seq):
        return _text_config(checkpoint, folder, target)
    return _picture_config(checkpoint)


def _picture_config(checkpoint: Checkpoint) -> dict[str, Any]:
    fields = {name: value for name, value in checkpoint.fields.items() if name != "num_classes"}
    size = fields.get("image_size") or checkpoint.config.get("image_size", 224)
    mean, std = _normalisation(checkpoint)
    resize = size if checkpoint.model is MODELS["vit"] else round(size / 0.875)
    name = "imagenet2012" if checkpoint.fields["num_classes"] == 1000 else ""
    return {
        "seed": 0,
        "data": {"name": name, "image_size": size, "resize": resize, "crop": "inception", "flip": True,
                 "mean": mean, "std": std},
        "model": {"name": _NAMES[checkpoint.model], **fields},
        "optimizer": {"name": "sgd", "learning_rate": 0.01, "momentum": 0.9, "warmup_steps": 50, "clip_norm": 1.0},
        "train": {"steps": 1000, "batch_size": 128},
    }  # fmt: skip


def _normalisation(checkpoint: Checkpoint) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of the channels, in units of 0..255: those it was published with, or -1..1."""
    file = Path(checkpoint.path).expanduser() / "preprocessor_config.json"
    found = json.loads(file.read_text("utf-8")) if file.is_file() else {}
    mean, std = found.get("image_mean", [0.5]), found.get("image_std", [0.5])
    if not file.is_file() and checkpoint.kind in ("resnet", "convnext"):
        mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]  # of ImageNet
    scaled = lambda values: tuple(round(255 * value, 3) for value in values)
    return scaled(mean), scaled(std)


def _text_config(checkpoint: Checkpoint, folder: Path, target: Path) -> dict[str, Any]:
    fields = {name: value for name, value in checkpoint.fields.items() if name not in _LENGTHS}
    vocabulary = Path(checkpoint.path).expanduser() / _VOCABULARY
    if vocabulary.is_file():
        shutil.copy(vocabulary, folder / _VOCABULARY)
    return {
        "seed": 0,
        "data": {
            "name": "",
            "vocabulary": str(target / _VOCABULARY) if vocabulary.is_file() else "",
            "vocab_size": checkpoint.fields["vocab_size"],
        },
        "model": fields,
        "optimizer": {"name": "adafactor", "learning_rate": 1e-3, "schedule": "constant", "clip_norm": 1.0},
        "train": {"steps": 1000, "batch_size": 128},
    }


def _sound_config(checkpoint: Checkpoint) -> dict[str, Any]:
    """With spectrograms as Whisper hears them, of sounds that silence follows up to the length it was trained with."""
    fields = {name: value for name, value in checkpoint.fields.items() if name not in _LENGTHS}
    hop_ms, length = 10.0, checkpoint.fields["max_target_length"]
    frames = checkpoint.fields["max_source_length"] * math.prod(fields["strides"])
    return {
        "seed": 0,
        "data": {
            "name": "",
            "sample_rate": 16_000,
            "hop_ms": hop_ms,
            "mels": channels(checkpoint),
            "normalise": "whisper",
            "edges": "mirror",
            "padding": "silence",
            "eval_buckets": 1,
            "max_seconds": frames * hop_ms / 1000,
            "target_length": length,
            "vocab_size": checkpoint.fields["vocab_size"],
        },
        "model": fields,
        "task": {"max_decode_length": length, "metrics": ("wer",)},
        "optimizer": {"name": "adamw", "learning_rate": 1e-5, "warmup_steps": 50, "clip_norm": 1.0},
        "train": {"steps": 1000, "batch_size": 16, "eval_batch_size": 16},
    }
