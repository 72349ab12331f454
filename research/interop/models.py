"""The models that checkpoints may hold, made of plain fields."""

from collections.abc import Mapping
from typing import Any

from flax import linen as nn

from research.models import alexnet, convnext, detector, faces, resnet, segmenter, speech, vit

# By `config.model.name`; the experiments over text have one model, and so has that over sounds: no name is needed.
MODELS = {"vit": vit.ViT, "resnet": resnet.ResNet, "convnext": convnext.ConvNeXt, "alexnet": alexnet.AlexNet}
# By experiment: the models around one of these without a head, which is called their backbone.
AROUND = {
    "detection": detector.Detector, "driving_segmentation": segmenter.Segmenter, "face_recognition": faces.FaceModel,
}  # fmt: skip
BACKBONE = "backbone/"  # where its parameters lie
_DTYPES = ("dtype", "param_dtype")


def make(model: type[nn.Module], fields: Mapping[str, Any], **settings: Any) -> nn.Module:
    """A `model` with these fields and settings; the `strides` among them are those of its front end."""
    fields = {**fields, **settings}
    if hasattr(model, "of"):
        return model.of(**fields)
    if "strides" in fields:
        dtypes = {name: fields[name] for name in _DTYPES if name in fields}
        fields["front_end"] = speech.FrontEnd(fields["width"], tuple(fields.pop("strides")), **dtypes)
    return model(**fields)


def has(model: nn.Module, field: str) -> bool:
    """Whether a model, or its spec, has a field."""
    return hasattr(model, field) or hasattr(getattr(model, "spec", None), field)


def value(model: nn.Module, field: str) -> Any:
    """What `make` was given for a field; of a model around a backbone also the fields of that."""
    if hasattr(model, "backbone") and not has(model, field):
        model = model.backbone
    if field == "strides" and hasattr(model, "front_end"):
        return model.front_end.strides
    return getattr(model if hasattr(model, field) else model.spec, field)
