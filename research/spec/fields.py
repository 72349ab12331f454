"""Specs: frozen dataclasses whose fields declare default, range, role and meaning once, at the field."""

import dataclasses
import enum
import functools
import types
import typing
from collections.abc import Mapping
from typing import Any, ClassVar, cast, dataclass_transform

from research.spec import convert
from research.spec.checks import Check

_KEY = "research.spec"  # key in the metadata of a dataclass field


class Role(enum.Enum):
    """Determines when a field may be changed. The default is RESULT."""

    RESULT = "result"
    """The result depends on it: it is part of the digest and fixed once a run has begun."""
    INFERENCE = "inference"
    """As RESULT while training; evaluation and prediction may use another value on a trained run."""
    LENGTH = "length"
    """The result depends on it, but a run may be continued with another value: the number of steps."""
    SEED = "seed"
    """Distinguishes repetitions of an experiment: fixed once a run has begun, but not part of the digest."""
    RUNTIME = "runtime"
    """Speed, logging and locations: no result depends on it, and it may change when a run is continued."""

    @property
    def in_digest(self) -> bool:
        """Whether different values of the field make different experiments."""
        return self in (Role.RESULT, Role.INFERENCE, Role.LENGTH)

    def may_differ(self, inference: bool) -> bool:
        """Whether a run may be resumed, or with `inference` evaluated and used for prediction, with another value."""
        return self in (Role.RUNTIME, Role.LENGTH) or (inference and self is Role.INFERENCE)


class FieldError(ValueError):
    """A value that a field does not accept: `train.steps=-1 must be at least 1`."""

    def __init__(self, path: tuple[str, ...], problem: str):
        self.path, self.problem = path, problem
        super().__init__(".".join(path) + problem)

    def below(self, *path: str) -> "FieldError":
        """The same error, with `path` prepended to the field's name."""
        return FieldError((*path, *self.path), self.problem)


@dataclasses.dataclass(frozen=True)
class FieldInfo:
    """The declaration of a field."""

    name: str
    annotation: object
    default: object  # dataclasses.MISSING: the field is required
    role: Role
    doc: str
    check: Check | None
    absent: object  # dataclasses.MISSING: the digest always includes the field
    formerly: Mapping[str, str]
    renamed: str

    @property
    def first_name(self) -> str:
        """The original name of the field, which the digest uses."""
        return self.renamed or self.name

    def current(self, value: object) -> object:
        """The current name of a value that may have been renamed."""
        return next((new for new, old in self.formerly.items() if old == value), value)


def field(
    *,
    default: Any = dataclasses.MISSING,
    role: Role = Role.RESULT,
    doc: str = "",
    check: Check | None = None,
    absent: Any = dataclasses.MISSING,
    formerly: Mapping[str, str] = types.MappingProxyType({}),
    renamed: str = "",
) -> Any:
    """Declares a field of a Spec.

    Args:
      default: The default; without one the field is required.
      role: When the field may be changed.
      doc: Its meaning and unit, for `tessera show --docs`.
      check: Its allowed values.
      absent: For a field that was added later: the value that is equivalent to the behaviour before the field existed.
        The digest omits the field while it has that value, so older digests stay valid.
      formerly: Renamed values, current name -> old name. JSON may have the old name, and the digest uses it, so that
        older runs can be read and older digests stay valid.
      renamed: The old name of the field, likewise: JSON and overrides may have it, and the digest uses it.
    """
    return dataclasses.field(default=default, metadata={_KEY: (role, doc, check, absent, formerly, renamed)})


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(field,))
class Spec:
    """Base class of all specs: a subclass becomes a frozen dataclass whose values are checked on construction.

    `class ViTSpec(Spec, tag="vit", version=1)`: the tag identifies it in unions and in JSON; the version is raised when
    code changes the results for the same field values. Values are converted by annotation (an int to a float, a list to
    a tuple) and then checked, first each field, then by `validate`. Specs are hashable.

    Raises:
      FieldError: A value has the wrong type or is out of range.
    """

    tag: ClassVar[str] = ""
    version: ClassVar[int] = 1

    def __init_subclass__(cls, tag: str = "", version: int = 1, **kwargs: Any):
        super().__init_subclass__(**kwargs)
        cls.tag, cls.version = tag or cls.tag, version
        dataclasses.dataclass(frozen=True, kw_only=True)(cls)

    def __post_init__(self) -> None:
        for info in infos(type(self)):
            try:
                value = convert.to(getattr(self, info.name), info.annotation)
            except convert.ConversionError as error:
                raise FieldError((info.name,), str(error)) from None
            object.__setattr__(self, info.name, value)
            if info.check is not None and not info.check.accepts(value):
                raise FieldError((info.name,), f"={value!r} {info.check.requirement}")
        self.validate()

    def validate(self) -> None:
        """Checks constraints between fields; raises `invalid(...)`."""


def invalid(spec: Spec, name: str, problem: str) -> FieldError:
    """The error for a field that is inconsistent with others: `warmup_steps=9 must be less than steps=5`."""
    return FieldError((name,), f"={getattr(spec, name)!r} {problem}")


@functools.cache
def infos(cls: type[Spec]) -> tuple[FieldInfo, ...]:
    """The declared fields of a spec, in order."""
    hints = typing.get_type_hints(cls)
    return tuple(_info(each, hints[each.name]) for each in dataclasses.fields(cast(Any, cls)))


def _info(each: "dataclasses.Field[Any]", annotation: object) -> FieldInfo:
    declared = each.metadata.get(_KEY, (Role.RESULT, "", None, dataclasses.MISSING, {}, ""))
    return FieldInfo(each.name, annotation, each.default, *declared)


def info(cls: type[Spec], name: str) -> FieldInfo | None:
    """The declaration of the field `name`; None if there is no such field."""
    return next((each for each in infos(cls) if each.name == name), None)


def members(annotation: object) -> tuple[type[Spec], ...]:
    """The specs that a field of this annotation accepts: one, those of a union, or none for a plain value."""
    return tuple(each for each in convert.alternatives(annotation) if isinstance(each, type) and issubclass(each, Spec))
