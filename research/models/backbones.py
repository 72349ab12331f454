"""Models around a backbone, a network that gives maps instead of classes: detectors, decoders, embeddings of faces."""

import functools
from collections.abc import Mapping
from typing import Any

from flax import linen as nn

from research.models import resnet, vit
from research.spec import Spec
from research.spec.fields import infos

BACKBONES: Mapping[str, type[nn.Module]] = {"resnet": resnet.ResNet, "vit": vit.ViT}


def specs(around: type[nn.Module]) -> dict[str, type[Spec]]:
    """The spec of a config's `model` group by the name of the backbone: its fields beside those of `around`."""
    return {name: _joined(around.spec_class, backbone.spec_class) for name, backbone in BACKBONES.items()}


def make(around: type[nn.Module], name: str, fields: Mapping[str, Any], num_classes: int, **dtypes: str) -> nn.Module:
    """The model of these fields, of the spec `specs(around)[name]`, around a backbone without classes."""
    own = {each.name for each in infos(around.spec_class)}
    backbone = BACKBONES[name].of(0, **dtypes, **{key: value for key, value in fields.items() if key not in own})
    return around.of(backbone, num_classes, **dtypes, **{key: value for key, value in fields.items() if key in own})


@functools.cache
def _joined(around: type[Spec], backbone: type[Spec]) -> type[Spec]:
    return type(f"{around.__name__}And{backbone.__name__}", (around, backbone), {}, tag=backbone.tag)
