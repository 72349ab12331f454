"""Models around a backbone, a network that gives maps instead of classes: detectors, decoders, embeddings of faces."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Protocol

from research.models import resnet, vit
from research.models.specs import HasSpec
from research.spec import Spec
from research.spec.fields import infos

BACKBONES: Mapping[type[Spec], type[resnet.ResNet | vit.ViT]] = {resnet.ResNetSpec: resnet.ResNet, vit.ViTSpec: vit.ViT}


class Around(HasSpec, Protocol):
    """A model around a backbone."""

    of: ClassVar[Callable[..., Any]]


def make(around: type[Around], spec: Spec, num_classes: int, precision: Any) -> Any:
    """The model around a backbone without classes; `spec` has the fields of both."""
    (inner,) = (backbone for of, backbone in BACKBONES.items() if isinstance(spec, of))
    dtypes = {"dtype": precision.compute, "param_dtype": precision.params}
    return around.of(inner.of(0, **dtypes, **_part(spec, inner)), num_classes, **dtypes, **_part(spec, around))


def _part(spec: Spec, model: type[HasSpec]) -> dict[str, Any]:
    return {each.name: getattr(spec, each.name) for each in infos(model.spec_class)}
