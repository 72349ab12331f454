"""Zero-shot image classifiers from CLIP and SigLIP (Radford et al., 2021; Zhai et al., 2023).

The logit of a class is scale * cos(image, text) + bias. The texts of the classes are known in advance, so a classifier
is the image tower with unit features and a head that is computed here: as a run it is evaluated, used and trained like
any other. With several templates, the features of a class are the mean over its texts.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from research.interop import checkpoints, loading
from research.interop.checkpoints import TOKENIZER, Checkpoint
from research.interop.families import text_towers
from research.models import layers
from research.models.text_tower import TextTower
from research.spec import FieldError

REASON = "computed from the names of the classes"
_TEXTS = 256  # computed at once


@dataclasses.dataclass(frozen=True)
class Prompts:
    """The names of classes, and the templates of texts about them; `{}` stands for the name."""

    classes: tuple[str, ...] = ()
    templates: tuple[str, ...] = ("a photo of a {}.",)

    def __post_init__(self) -> None:
        """Raises ValueError for a template without {}, and for names that are equal."""
        for template in self.templates:
            if "{}" not in template:
                raise ValueError(f"--template={template!r} needs {{}}, which stands for the name of a class")
        if len(set(self.classes)) < len(self.classes):
            raise ValueError(f"--class names a class twice: {', '.join(self.classes)}; give each once")

    def completed(self, config: Any) -> "Prompts":
        """With the class names of the data of `config` unless there are some, `_` as a space.

        Raises ValueError if there are none, or not as many as classes in the data.
        """
        if not config.data.name and not self.classes:
            raise ValueError("--zero-shot needs the names of classes: give --class=NAME for each or --config.data.name")
        if not config.data.name:
            return self
        known = config.build()[1].class_names
        if self.classes and len(self.classes) != len(known):
            raise ValueError(
                f"--class is given {len(self.classes)} times, but {config.data.name} has {len(known)} classes: "
                f"{', '.join(known[:5])} ...; give one name for each, in this order"
            )
        return self if self.classes else dataclasses.replace(self, classes=tuple(_spaced(name) for name in known))

    def texts(self) -> list[str]:
        """The texts of all classes, those of a class in succession."""
        return [template.replace("{}", name) for name in self.classes for template in self.templates]

    def lines(self) -> list[str]:
        """Lines for the user."""
        return [f"zero-shot: {len(self.classes)} classes, {len(self.templates)} templates, first {self.texts()[0]!r}"]


def _spaced(name: str) -> str:
    return name.replace("_", " ")


def classifier(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint of an image tower with the projection and the unit features of zero-shot classification.

    Raises ValueError for a checkpoint without a text tower.
    """
    if checkpoint.kind not in text_towers.KINDS:
        raise ValueError(
            f"--zero-shot is for {' and '.join(text_towers.KINDS)}, but {checkpoint.path} holds a {checkpoint.kind}"
        )
    projection = checkpoint.tensors.specs.get("visual_projection.weight")
    size = projection.shape[0] if projection and projection.shape else 0
    return dataclasses.replace(checkpoint, fields={**checkpoint.fields, "projection": size, "unit_features": True})


def with_classes(checkpoint: Checkpoint, prompts: Prompts) -> tuple[Checkpoint, dict[str, np.ndarray]]:
    """The `classifier` with the classes of `prompts`, and the parameters of its head, by path."""
    fields = {**checkpoint.fields, "num_classes": len(prompts.classes)}
    kernel, bias = head(checkpoint, prompts)
    return dataclasses.replace(checkpoint, fields=fields), {"head/kernel": kernel, "head/bias": bias}


def head(checkpoint: Checkpoint, prompts: Prompts) -> tuple[np.ndarray, np.ndarray]:
    """Kernel [features, classes] and bias [classes] of the head for the classes of `prompts`.

    Raises ValueError if the text tower or the tokenizer is missing, or cannot be used.
    """
    model, variables = text_tower(checkpoint)
    features = text_features(checkpoint, model, variables, prompts.texts())
    of_classes = features.reshape(len(prompts.classes), len(prompts.templates), -1).mean(1)
    if len(prompts.templates) > 1:
        of_classes = np.asarray(layers.unit(jnp.asarray(of_classes)))
    scale, bias = (_scalar(checkpoint, f"logit_{name}", default) for name, default in (("scale", None), ("bias", 0.0)))
    return np.exp(scale) * of_classes.T, np.full(len(of_classes), bias, np.float32)


def text_tower(checkpoint: Checkpoint) -> tuple[TextTower, Any]:
    """The text tower in the files of `checkpoint`, and its variables."""
    kind = checkpoint.kind
    try:
        fields = text_towers.fields(kind, checkpoint.config, checkpoint.tensors.specs)
        model = text_towers.model_of(fields)
    except FieldError as error:
        raise ValueError(f"{checkpoint.path}: the text tower: {error}") from None
    except ValueError as error:
        raise ValueError(f"{checkpoint.path}: {error}") from None
    checkpoints.check_sizes(fields, checkpoint.tensors.specs)
    text = dataclasses.replace(
        checkpoint, model=TextTower, fields=fields, table=lambda model, paths: text_towers.table(kind),
        unused=text_towers.UNUSED,
    )  # fmt: skip
    ids = jax.ShapeDtypeStruct((1, 1), jnp.int32), jax.ShapeDtypeStruct((1,), jnp.int32)
    shapes = jax.eval_shape(lambda *ids: model.init(jax.random.key(0), *ids), *ids)
    return model, loading.plan(text, model, loading.leaves_of(shapes), exact=True).variables(shapes)


def text_features(checkpoint: Checkpoint, model: TextTower, variables: Any, texts: Sequence[str]) -> np.ndarray:
    """Features [texts, features] of length 1."""
    tokens = tokenize(checkpoints.folder_of(checkpoint), checkpoint, model, texts)
    last = text_towers.ends(checkpoint.kind, checkpoint.config, tokens)
    compute = jax.jit(lambda variables, *inputs: layers.unit(cast(jax.Array, model.apply(variables, *inputs))))
    parts = [slice(begin, begin + _TEXTS) for begin in range(0, len(tokens), _TEXTS)]
    return np.concatenate([np.asarray(compute(variables, tokens[part], last[part])) for part in parts])


def tokenize(folder: Path, checkpoint: Checkpoint, model: TextTower, texts: Sequence[str]) -> np.ndarray:
    """Token ids int32 [texts, max_length] by the tokenizer.json in `folder`; longer texts are truncated.

    Raises ValueError if it is missing or has other tokens than the model.
    """
    import tokenizers

    file = folder / TOKENIZER
    try:
        tokenizer = tokenizers.Tokenizer.from_str(file.read_text())
    except Exception as error:  # noqa: BLE001  The library raises plain Exception.
        reason = "is missing" if isinstance(error, FileNotFoundError) else "is not a tokenizer.json"
        raise ValueError(f"{file} {reason}; copy it from where the weights come from") from None
    tokenizer.no_padding()
    tokenizer.enable_truncation(model.max_length)
    rows = [each.ids for each in tokenizer.encode_batch(list(texts))]
    if max(max(ids, default=0) for ids in rows) >= model.vocab_size:
        raise ValueError(f"{file} has tokens from {model.vocab_size} on, which the text tower does not have; copy both")
    tokens = np.full((len(rows), model.max_length), text_towers.padding(checkpoint.kind, checkpoint.config), np.int32)
    for row, ids in zip(tokens, rows, strict=True):
        row[: len(ids)] = ids
    return tokens


def _scalar(checkpoint: Checkpoint, name: str, default: float | None) -> float:
    if name not in checkpoint.tensors.specs and default is not None:
        return default
    if name not in checkpoint.tensors.specs or np.prod(checkpoint.tensors.specs[name].shape) != 1:
        raise ValueError(f"{checkpoint.path} has no number {name}; give the folder of the whole model")
    return float(checkpoint.tensors.read(name).astype(np.float32).reshape(()))


def description(prompts: Prompts, checkpoint: Checkpoint) -> Mapping[str, Any]:
    """The metadata that `tessera predict` needs, see data/recorded.py."""
    import tensorflow_datasets as tfds  # slow to import

    channels = checkpoints.channels(checkpoint)
    image = tfds.features.Image(shape=(None, None, channels))
    label = tfds.features.ClassLabel(num_classes=len(prompts.classes))
    features = tfds.features.FeaturesDict({"image": image, "label": label})
    return {
        "name": "zero_shot", "version": "1.0.0", "features": features.to_json(),
        "labels": {"label": list(prompts.classes)}, "class_names": [], "colours": [],
        "shape": [None, None, channels], "metadata": {},
    }  # fmt: skip
