"""Builds models with a backbone that returns feature maps: detection, segmentation, face embeddings."""

from collections.abc import Mapping
from typing import Any, cast

from flax import linen as nn

from research.models import efficientnet, resnet, vit
from research.models.specs import spec_class
from research.spec import Spec
from research.spec.fields import infos

BACKBONES: Mapping[type[Spec], type[resnet.ResNet | vit.ViT | efficientnet.EfficientNet]] = {
    resnet.ResNetSpec: resnet.ResNet,
    vit.ViTSpec: vit.ViT,
    efficientnet.EfficientNetSpec: efficientnet.EfficientNet,
}


def make(around: type[nn.Module], spec: Spec, num_classes: int, precision: Any) -> nn.Module:
    """The model `around` with a backbone without head; `spec` has the fields of both."""
    (inner,) = (backbone for of, backbone in BACKBONES.items() if isinstance(spec, of))
    dtypes = {"dtype": precision.compute, "param_dtype": precision.params}
    return cast(Any, around).of(
        inner.of(0, **dtypes, **_part(spec, inner)), num_classes, **dtypes, **_part(spec, around)
    )


def _part(spec: Spec, model: type[nn.Module]) -> dict[str, Any]:
    return {each.name: getattr(spec, each.name) for each in infos(spec_class(model))}
