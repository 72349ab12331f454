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

_KEY = "research.spec"  # of the metadata of a dataclass field


class Role(enum.Enum):
    """What a field may be changed for. The default is RESULT."""

    RESULT = "result"
    """The result depends on it: it is part of the digest and fixed once a run has begun."""
    INFERENCE = "inference"
    """As RESULT while training; evaluation and prediction may use another value on a trained run."""
    LENGTH = "length"
    """The result depends on it, but a run may be continued with another value: the number of steps."""
    SEED = "seed"
    """Repeats an experiment: fixed once a run has begun, but not part of the digest."""
    RUNTIME = "runtime"
    """Speed, logging and locations: no result depends on it, and it may change when a run is continued."""

    @property
    def in_digest(self) -> bool:
        """Whether two values of the field are two experiments."""
        return self in (Role.RESULT, Role.INFERENCE, Role.LENGTH)

    def may_differ(self, inference: bool) -> bool:
        """Whether a run may be continued, or with `inference` evaluated and used, with another value."""
        return self in (Role.RUNTIME, Role.LENGTH) or (inference and self is Role.INFERENCE)


class FieldError(ValueError):
    """A value that a field does not accept: `train.steps=-1 must be at least 1`."""

    def __init__(self, path: tuple[str, ...], problem: str):
        self.path, self.problem = path, problem
        super().__init__(".".join(path) + problem)

    def below(self, *path: str) -> "FieldError":
        """The same error, with the field's name as seen from further up."""
        return FieldError((*path, *self.path), self.problem)


@dataclasses.dataclass(frozen=True)
class FieldInfo:
    """What is declared about a field."""

    name: str
    annotation: object
    default: object  # dataclasses.MISSING where it must be given
    role: Role
    doc: str
    check: Check | None
    absent: object  # dataclasses.MISSING where the digest always holds the field
    formerly: Mapping[str, str]
    renamed: str

    @property
    def first_name(self) -> str:
        """The name by which the digest knows the field."""
        return self.renamed or self.name

    def current(self, value: object) -> object:
        """The present name of a value that may have been renamed."""
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
      default: The default; without one the field must be given.
      role: What the field may be changed for.
      doc: Its meaning and unit, for `tessera show`.
      check: Its range.
      absent: For a field that was added later: the value at which everything is as before the field existed. The
        digest leaves the field out while it has that value, so older digests stand.
      formerly: The old names of values that were renamed. JSON may hold the old name, and the digest keeps it, so older
        runs can be read and older digests stand.
      renamed: The old name of the field, with the same use: JSON and overrides may hold it, and the digest keeps it.
    """
    return dataclasses.field(default=default, metadata={_KEY: (role, doc, check, absent, formerly, renamed)})


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(field,))
class Spec:
    """The base of all specs: a subclass becomes a frozen dataclass whose values are checked when it is made.

    `class ViTSpec(Spec, tag="vit", version=1)`: the tag names it in unions and in JSON; the version is raised when
    code changes the results of the same field values. Values are converted by annotation (an int may stand for a
    float, a list for a tuple) and then checked, field by field and last by `validate`. They are hashable.

    Raises:
      FieldError: a value of the wrong type or out of its range.
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
                raise FieldError((info.name,), f"={value!r} {info.check.says}")
        self.validate()

    def validate(self) -> None:
        """Checks that concern several fields; raises `invalid(...)`."""


def invalid(spec: Spec, name: str, problem: str) -> FieldError:
    """The error to raise where a field does not fit the others: `warmup_steps=9 must be less than steps=5`."""
    return FieldError((name,), f"={getattr(spec, name)!r} {problem}")


@functools.cache
def infos(cls: type[Spec]) -> tuple[FieldInfo, ...]:
    """The fields of a spec, in their order."""
    hints = typing.get_type_hints(cls)
    return tuple(_info(each, hints[each.name]) for each in dataclasses.fields(cast(Any, cls)))


def _info(each: "dataclasses.Field[Any]", annotation: object) -> FieldInfo:
    declared = each.metadata.get(_KEY, (Role.RESULT, "", None, dataclasses.MISSING, {}, ""))
    return FieldInfo(each.name, annotation, each.default, *declared)


def info(cls: type[Spec], name: str) -> FieldInfo | None:
    """What is declared about the field `name`; None where there is no such field."""
    return next((each for each in infos(cls) if each.name == name), None)


def members(annotation: object) -> tuple[type[Spec], ...]:
    """The specs that a field of this annotation accepts: one, those of a union, or none for a plain value."""
    return tuple(each for each in convert.alternatives(annotation) if isinstance(each, type) and issubclass(each, Spec))
