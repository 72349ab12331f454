"""Models around a backbone, a network that gives maps instead of classes: detectors, decoders, embeddings of faces."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from flax import linen as nn

from research import config as config_lib
from research.models import resnet, vit
from research.spec.fields import FieldError, infos

BACKBONES = {"resnet": resnet.ResNet, "vit": vit.ViT}
_NOT_SET = ("parent", "name", "dtype", "param_dtype")


def defaults(config: Any, around: type[nn.Module], leave_out: Sequence[str] = ()) -> dict[str, Any]:
    """What `config.model` may set, with its default: the `name` of a backbone, its fields, and those of `around`.

    Where both have a field, `leave_out` says that it is the backbone's. Raises ValueError for an unknown name.
    """
    backbone = config_lib.choose(BACKBONES, config.model.name, "model.name")
    fields = {each.name: each.default for each in infos(backbone.spec_class)}
    return {"name": "", **fields, **_own(around, leave_out)}


def make(config: Any, around: type[nn.Module], num_classes: int, leave_out: Sequence[str] = ()) -> nn.Module:
    """The model that a complete `config` describes; `leave_out` as in `defaults`."""
    dtypes = {"dtype": config.precision.compute, "param_dtype": config.precision.params}
    own = {key: config.model[key] for key in _own(around, leave_out)}
    others = {key: value for key, value in config.model.items() if key not in ("name", *own)}
    try:
        backbone = BACKBONES[config.model.name].of(0, **dtypes, **others)
    except FieldError as error:
        raise error.below("config", "model") from None
    own |= {field.name: dtypes[field.name] for field in dataclasses.fields(around) if field.name in dtypes}
    return around(backbone, num_classes, **own)


def _own(around: type[nn.Module], leave_out: Sequence[str]) -> dict[str, Any]:
    return config_lib.fields_of(around, leave_out=(*leave_out, *_NOT_SET))
