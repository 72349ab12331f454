"""Access to fields of models by name, whether they belong to the module, its spec or its backbone."""

import dataclasses
from typing import Any, Protocol, runtime_checkable

from flax import linen as nn

from research.spec import Spec
from research.spec.fields import infos

BACKBONE = "backbone/"  # path prefix of the parameters of a model's backbone
_NO_FIELDS = ("spec", "backbone", "dtype", "param_dtype", "parent", "name")


@runtime_checkable
class OfFields(Protocol):
    """The class of a model that can be constructed from plain fields, see models/specs.py."""

    @property
    def spec_class(self) -> type[Spec]:
        """The spec class, for the fields that are not the model's own."""
        ...

    def of(self, **fields: Any) -> nn.Module:
        """The model with these fields, its own and those of its spec. Raises FieldError for an invalid value."""
        ...


def of_fields(model: type[nn.Module]) -> OfFields:
    """Casts a class of this library's models to OfFields."""
    assert isinstance(model, OfFields), f"{model.__name__} has no spec"
    return model


def has(model: nn.Module, field: str) -> bool:
    """Whether a model, or its spec, has a field."""
    return hasattr(model, field) or hasattr(getattr(model, "spec", None), field)


def value(model: nn.Module, field: str) -> Any:
    """The value of a field of a model or of its backbone."""
    if hasattr(model, "backbone") and not has(model, field):
        model = model.backbone
    return getattr(model if hasattr(model, field) else model.spec, field)


def fields(model: nn.Module) -> dict[str, Any]:
    """All fields of a model, its spec and its backbone, except dtypes."""
    inside = fields(model.backbone) if hasattr(model, "backbone") else {}
    spec = {each.name: getattr(model.spec, each.name) for each in infos(type(model.spec))}
    own = {each.name for each in dataclasses.fields(model)} - {*_NO_FIELDS}
    return inside | spec | {name: getattr(model, name) for name in own}
