"""The models that checkpoints may hold, made of plain fields."""

from collections.abc import Mapping
from typing import Any

from flax import linen as nn

from research.models import alexnet, convnext, resnet, speech, vit

# By `config.model.name`; the experiments over text have one model, and so has that over sounds: no name is needed.
MODELS = {"vit": vit.ViT, "resnet": resnet.ResNet, "convnext": convnext.ConvNeXt, "alexnet": alexnet.AlexNet}
_DTYPES = ("dtype", "param_dtype")


def make(model: type[nn.Module], fields: Mapping[str, Any], **settings: Any) -> nn.Module:
    """A `model` with these fields and settings; the `strides` among them are those of its front end."""
    fields = {**fields, **settings}
    if "strides" in fields:
        dtypes = {name: fields[name] for name in _DTYPES if name in fields}
        fields["front_end"] = speech.FrontEnd(fields["width"], tuple(fields.pop("strides")), **dtypes)
    return model(**fields)


def value(model: nn.Module, field: str) -> Any:
    """What `make` was given for a field."""
    return model.front_end.strides if field == "strides" else getattr(model, field)
