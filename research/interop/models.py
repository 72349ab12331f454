"""Fields of models by their names, whether they are of the module, of its spec, or of its backbone."""

import dataclasses
from typing import Any, Protocol, runtime_checkable

from flax import linen as nn

from research.spec import Spec
from research.spec.fields import infos

BACKBONE = "backbone/"  # where the parameters of a model's backbone lie
_NO_FIELDS = ("spec", "backbone", "dtype", "param_dtype", "parent", "name")


@runtime_checkable
class OfFields(Protocol):
    """The class of a model that is made of plain fields, see models/specs.py."""

    @property
    def spec_class(self) -> type[Spec]:
        """Of the fields that are not its own."""
        ...

    def of(self, **fields: Any) -> nn.Module:
        """The model with these fields, its own and those of its spec. Raises FieldError."""
        ...


def of_fields(model: type[nn.Module]) -> OfFields:
    """A class of this library's models as what it can be made of."""
    assert isinstance(model, OfFields), f"{model.__name__} has no spec"
    return model


def has(model: nn.Module, field: str) -> bool:
    """Whether a model, or its spec, has a field."""
    return hasattr(model, field) or hasattr(getattr(model, "spec", None), field)


def value(model: nn.Module, field: str) -> Any:
    """The value of a field; of a model around a backbone also of the fields of that."""
    if hasattr(model, "backbone") and not has(model, field):
        model = model.backbone
    return getattr(model if hasattr(model, field) else model.spec, field)


def fields(model: nn.Module) -> dict[str, Any]:
    """All fields of a model and of its spec but dtypes; of one around a backbone also the fields of that."""
    inside = fields(model.backbone) if hasattr(model, "backbone") else {}
    spec = {each.name: getattr(model.spec, each.name) for each in infos(type(model.spec))}
    own = {each.name for each in dataclasses.fields(model)} - {*_NO_FIELDS}
    return inside | spec | {name: getattr(model, name) for name in own}
