"""Typed, checked, frozen values that describe an experiment: fields, overrides, JSON and digest.

The machinery only: it knows no model, no optimizer and no experiment.
"""

from research.spec import checks
from research.spec.fields import FieldError, Role, Spec, field, invalid
from research.spec.overrides import override
from research.spec.serial import differences, digest, flat, from_json, to_json

__all__ = [
    "FieldError", "Role", "Spec", "checks", "differences", "digest", "field", "flat", "from_json", "invalid",
    "override", "to_json",
]  # fmt: skip
