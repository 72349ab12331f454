"""The config of an imported run: the model and preprocessing of the checkpoint, and initial training settings."""

import math
import reprlib
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from research.data.text.tokenizer import open_vocabulary
from research.data.text.vocabulary import Vocabulary
from research.interop import models, preprocessing
from research.interop.checkpoints import TOKENIZER, VOCABULARY, Checkpoint, channels, folder_of
from research.interop.family import size
from research.models.bert import Bert
from research.models.efficientnet import EfficientNet
from research.models.seq2seq import Seq2Seq
from research.models.speech import Recogniser

_TOKENIZERS = ("tokenizer.json", "tokenizer_config.json", "vocab.json")
# Fields that experiments take from their data.
_OF_CLASSES = ("num_classes", "max_length", "of_tokens")
_LENGTHS = ("vocab_size", "max_source_length", "max_target_length", "sentence_length")


def make(
    checkpoint: Checkpoint, folder: Path, target: Path, overrides: Sequence[str] = ()
) -> tuple[dict[str, Any], list[str]]:
    """The config, and lines for the user about it.

    Files that the config refers to are copied to `folder`, which is later renamed to `target`. Raises ValueError for
    unsupported preprocessing.
    """
    if issubclass(checkpoint.model, Recogniser):
        return _sound_config(checkpoint), []
    if issubclass(checkpoint.model, Bert):
        return _class_config(checkpoint, folder, target)
    if issubclass(checkpoint.model, Seq2Seq):
        return _text_config(checkpoint, folder, target, overrides)
    return _image_config(checkpoint)


def sizes(checkpoint: Checkpoint, config: Any) -> dict[str, Any]:
    """The arguments of `config.make_task` for an imported run, which otherwise come from the data."""
    if issubclass(checkpoint.model, Seq2Seq):
        ids = special_ids(checkpoint)
        bos, eos = (size(ids, f"{name}_token_id", least=0) for name in ("decoder_start", "eos"))
        return {"vocab_size": checkpoint.fields["vocab_size"], "bos": bos, "eos": eos, "unk": Vocabulary.unk}
    if issubclass(checkpoint.model, Bert):
        return {"vocab_size": checkpoint.fields["vocab_size"]}
    side = config.data.image_size
    return {"num_classes": checkpoint.fields["num_classes"], "image_shape": [side, side, channels(checkpoint)]}


def special_ids(checkpoint: Checkpoint) -> dict[str, int]:
    """The special token ids of an encoder-decoder, for use without a vocabulary of ours; {} for other models."""
    if not issubclass(checkpoint.model, Seq2Seq):
        return {}
    found = {"pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0}
    return found | {name: checkpoint.config[name] for name in found if isinstance(checkpoint.config.get(name), int)}


def _image_config(checkpoint: Checkpoint) -> tuple[dict[str, Any], list[str]]:
    fields = {name: value for name, value in checkpoint.fields.items() if name != "num_classes"}
    needed = fields.get("image_size") if fields.get("positions") != "sincos" else None
    usual = size(checkpoint.config, "image_size", 224) if needed is None else needed
    if issubclass(checkpoint.model, EfficientNet):
        is_tensorflow = checkpoint.fields["padding"] == "same"
        data, lines = preprocessing.of_timm(checkpoint.config, channels(checkpoint), is_tensorflow)
    else:
        data, lines = preprocessing.of_images(
            folder_of(checkpoint), checkpoint.kind, channels(checkpoint), needed, usual
        )
    if "image_size" in fields:
        fields["image_size"] = data["image_size"]
    name = "imagenet2012" if checkpoint.fields["num_classes"] == 1000 else ""
    return {
        "seed": 0,
        "data": {"name": name, "crop": "inception", "flip": True, **data},
        "model": {"name": models.of_fields(checkpoint.model).spec_class.tag, **fields},
        "optimizer": {"name": "sgd", "learning_rate": 0.01, "momentum": 0.9, "warmup_steps": 50, "clip_norm": 1.0},
        "train": {"steps": 1000, "batch_size": 128},
    }, lines  # fmt: skip


def _text_config(
    checkpoint: Checkpoint, folder: Path, target: Path, overrides: Sequence[str]
) -> tuple[dict[str, Any], list[str]]:
    fields = {name: value for name, value in checkpoint.fields.items() if name not in _LENGTHS}
    lines = []
    if not any(override.startswith("data.vocabulary=") for override in overrides):
        lines = _take_vocabulary(checkpoint, folder, target)
    return {
        "seed": 0,
        "data": {
            "name": "",
            # Set even if the file is missing: a newly trained vocabulary would not match the embeddings.
            "vocabulary": str(target / VOCABULARY),
            "vocab_size": checkpoint.fields["vocab_size"],
        },
        "model": fields,
        "optimizer": {"name": "adafactor", "learning_rate": 1e-3, "schedule": "constant", "clip_norm": 1.0},
        "train": {"steps": 1000, "batch_size": 128},
    }, lines


def _class_config(checkpoint: Checkpoint, folder: Path, target: Path) -> tuple[dict[str, Any], list[str]]:
    """The config of a BERT: text classification, with the class names of its head if any, or span extraction.

    Without a head, the model computes text features; with a head for answer spans, the task is span extraction.
    """
    fields = {name: value for name, value in checkpoint.fields.items() if name not in (*_LENGTHS, *_OF_CLASSES)}
    data, train = {}, {"steps": 1000, "batch_size": 16, "eval_batch_size": 32}
    task = {"name": "text_classification", "classes": _class_names(checkpoint)}
    if checkpoint.fields["of_tokens"]:
        data, train = {"source": "{question}\t{context}"}, train | {"score": "all"}
        stride = max(checkpoint.fields["max_length"] // 4, 1)
        task = {"name": "span_extraction", "doc_stride": stride, "metrics": ("squad",), "select_by": "f1"}
    there, vocab_size = folder_of(checkpoint) / TOKENIZER, checkpoint.fields["vocab_size"]
    lines = [f"no {TOKENIZER} is beside the weights; put it at {target / TOKENIZER} before use"]
    if there.is_file():
        open_vocabulary(str(there), vocab_size)
        shutil.copy(there, folder / TOKENIZER)
        lines = []
    return {
        "seed": 0,
        "data": {
            "name": "",
            "vocabulary": str(target / TOKENIZER),  # set even if the file is missing, as in _text_config
            "vocab_size": vocab_size,
            "source_length": checkpoint.fields["max_length"],
            "target_length": 16,
            **data,
        },
        "model": {"name": "bert", **fields},
        "task": task,
        "optimizer": {"name": "adamw", "learning_rate": 5e-5, "schedule": "linear", "warmup_steps": 50},
        "train": train,
    }, lines


def _class_names(checkpoint: Checkpoint) -> tuple[str, ...]:
    """The class names in `id2label`; LABEL_0, LABEL_1, ... if they are missing or unusable."""
    count, names = checkpoint.fields["num_classes"], checkpoint.config.get("id2label")
    known = names if isinstance(names, dict) else {}
    found = tuple(known.get(str(index), "") for index in range(count))
    is_usable = all(isinstance(name, str) and name and name.isprintable() for name in found)
    return found if is_usable and len(set(found)) == count else tuple(f"LABEL_{index}" for index in range(count))


def _take_vocabulary(checkpoint: Checkpoint, folder: Path, target: Path) -> list[str]:
    there = folder_of(checkpoint) / VOCABULARY
    if there.is_file():
        vocabulary = Vocabulary.of_file(str(there), checkpoint.fields["vocab_size"])
        start = checkpoint.config.get("decoder_start_token_id")
        if start not in (None, vocabulary.bos):
            raise ValueError(
                f"config.json has decoder_start_token_id={reprlib.repr(start)}, which is not supported; with {there} "
                f"it must be {vocabulary.bos}"
            )
        shutil.copy(there, folder / VOCABULARY)
        return []
    found = [name for name in _TOKENIZERS if (folder_of(checkpoint) / name).is_file()]
    if found:
        raise ValueError(
            f"{folder_of(checkpoint)} has {found[0]} but no {VOCABULARY}, the only supported vocabulary; copy it "
            "there, or set --config.data.vocabulary to a matching sentencepiece model"
        )
    return [f"no {VOCABULARY} is beside the weights; put it at {target / VOCABULARY} before use"]


def _sound_config(checkpoint: Checkpoint) -> dict[str, Any]:
    """The config of a Whisper: its spectrograms, with sounds padded by silence to the length of its training."""
    fields = {name: value for name, value in checkpoint.fields.items() if name not in _LENGTHS}
    length = checkpoint.fields["max_target_length"]
    frames = checkpoint.fields["max_source_length"] * math.prod(fields["strides"])
    return {
        "seed": 0,
        "data": {
            "name": "",
            **preprocessing.of_sounds(folder_of(checkpoint), channels(checkpoint), frames),
            "normalise": "whisper",
            "pad_mode": "reflect",
            "padding": "silence",
            "eval_buckets": 1,
            "target_length": length,
            "vocab_size": checkpoint.fields["vocab_size"],
        },
        "model": fields,
        "task": {"max_decode_length": length, "metrics": ("wer",)},
        "optimizer": {"name": "adamw", "learning_rate": 1e-5, "warmup_steps": 50, "clip_norm": 1.0},
        "train": {"steps": 1000, "batch_size": 16, "eval_batch_size": 16},
    }
