"""The models that checkpoints may hold, made of plain fields."""

from collections.abc import Mapping
from typing import Any

from flax import linen as nn

from research.models import alexnet, convnext, detector, faces, resnet, segmenter, seq2seq, speech, vit
from research.spec import FieldError
from research.spec.fields import infos

# By `config.model.name`; the experiments over text have one model, and so has that over sounds: no name is needed.
MODELS = {"vit": vit.ViT, "resnet": resnet.ResNet, "convnext": convnext.ConvNeXt, "alexnet": alexnet.AlexNet}
# By experiment: the models around one of these without a head, which is called their backbone.
AROUND = {
    "detection": detector.Detector, "driving_segmentation": segmenter.Segmenter, "face_recognition": faces.FaceModel,
}  # fmt: skip
# The specs of the models that take one.
_SPECS = {seq2seq.Seq2Seq: seq2seq.Seq2SeqSpec, speech.Recogniser: speech.RecogniserSpec}
BACKBONE = "backbone/"  # where its parameters lie


def make(model: type[nn.Module], fields: Mapping[str, Any], **settings: Any) -> nn.Module:
    """A `model` with these fields and settings; those of its spec, if it has one, may be among them."""
    fields = {**fields, **settings}
    try:
        if hasattr(model, "of"):
            return model.of(**fields)
        if model not in _SPECS:
            return model(**fields)
        inside = {each.name: fields.pop(each.name) for each in infos(_SPECS[model]) if each.name in fields}
        return model(_SPECS[model](**inside), **fields)
    except FieldError as error:
        raise ValueError(f"config.{error.below('model')}") from None


def has(model: nn.Module, field: str) -> bool:
    """Whether a model, or its spec, has a field."""
    return hasattr(model, field) or hasattr(getattr(model, "spec", None), field)


def value(model: nn.Module, field: str) -> Any:
    """What `make` was given for a field; of a model around a backbone also the fields of that."""
    if hasattr(model, "backbone") and not has(model, field):
        model = model.backbone
    return getattr(model if hasattr(model, field) else model.spec, field)
