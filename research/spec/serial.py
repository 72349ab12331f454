"""Specs as JSON, as flat dictionaries and as digests."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any, TypeVar, cast

from research.spec.fields import FieldError, FieldInfo, Spec, infos, members

AnySpec = TypeVar("AnySpec", bound=Spec)
TAG = "spec"  # the JSON key of tag and version, e.g. "vit@1"


def to_json(value: Spec) -> dict[str, Any]:
    """A spec as nested dicts of plain values: all fields, and the tag and version of every spec."""
    fields = {each.name: getattr(value, each.name) for each in infos(type(value))}
    return {TAG: label(type(value)), **{name: _plain(part) for name, part in fields.items()}}


def label(cls: type[Spec]) -> str:
    """Tag and version, e.g. `vit@1`."""
    return f"{cls.tag}@{cls.version}"


def _plain(value: Any) -> Any:
    if isinstance(value, Spec):
        return to_json(value)
    if isinstance(value, tuple):
        return [_plain(item) for item in cast("tuple[Any, ...]", value)]
    return value


def from_json(cls: type[AnySpec], data: object) -> AnySpec:
    """The spec of class `cls` from the result of `to_json`.

    A field that is missing because it was added later gets its `absent` value.

    Raises:
      FieldError: The JSON does not describe a spec of this class.
    """
    if not isinstance(data, Mapping):
        raise FieldError((), f"={str(data)[:40]!r} is not a group of fields")
    content = dict(cast("Mapping[str, Any]", data))
    content.pop(TAG, None)
    values: dict[str, Any] = {}
    for each in infos(cls):
        written = each.name if each.name in content else each.renamed
        if written in content:
            values[each.name] = _read(each, content.pop(written))
        elif each.absent is not dataclasses.MISSING:
            values[each.name] = each.absent
        else:
            raise FieldError((each.name,), " is missing; it was written by another version of this code")
    if content:
        raise FieldError((next(iter(content)),), f" is not a field of {cls.__name__}")
    return cls(**values)


def _read(each: FieldInfo, data: Any) -> Any:
    options = members(each.annotation)
    if not options or data is None:
        return each.current(data) if isinstance(data, str) else _tuples(data)
    content = cast("Mapping[str, Any]", data if isinstance(data, Mapping) else {})
    tag = str(content.get(TAG, "")).split("@")[0]
    known = {option.tag: option for option in options}
    if tag not in known:
        raise FieldError((each.name,), f"={tag!r} is unknown; choose from {', '.join(sorted(known))}")
    try:
        return from_json(known[tag], content)
    except FieldError as error:
        raise error.below(each.name) from None


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in cast("list[Any]", value)) if isinstance(value, list) else value


@dataclasses.dataclass(frozen=True)
class Leaf:
    """A plain value in a nested spec, and the declaration of its field."""

    value: Any
    info: FieldInfo


def leaves(value: Spec, prefix: str = "") -> dict[str, Leaf]:
    """`{"train.steps": Leaf(100, ...)}` of all plain values of a nested spec."""
    result: dict[str, Leaf] = {}
    for each in infos(type(value)):
        part = getattr(value, each.name)
        if isinstance(part, Spec):
            result |= leaves(part, f"{prefix}{each.name}.")
        else:
            result[prefix + each.name] = Leaf(part, each)
    return result


def flat(value: Spec) -> dict[str, Any]:
    """`{"train.steps": 100}` of all plain values of a nested spec."""
    return {name: leaf.value for name, leaf in leaves(value).items()}


def digest(value: Spec) -> str:
    """A hash, 12 hexadecimal digits, of everything that a result depends on.

    It covers every field with such a role, also at its default, and the tag and version of each spec. A field with
    `absent` is omitted while it has that value. Renamed fields and values count under their old names.
    """
    text = json.dumps(_digested(value), sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _digested(value: Spec) -> dict[str, Any]:
    result: dict[str, Any] = {TAG: label(type(value))}
    for each in infos(type(value)):
        part = getattr(value, each.name)
        if not each.role.in_digest or (each.absent is not dataclasses.MISSING and part == each.absent):
            continue
        if isinstance(part, str):
            part = each.formerly.get(part, part)
        result[each.first_name] = _digested(part) if isinstance(part, Spec) else _plain(part)
    return result


def differences(old: Spec, new: Spec, inference: bool = False) -> tuple[list[str], list[str]]:
    """Two lists of `train.steps: 100 -> 200` lines: allowed differences, and others.

    Allowed are those with which a run may be resumed, or with `inference` evaluated and used (see `Role`).
    """
    before, after = leaves(old), leaves(new)
    allowed: list[str] = []
    refused: list[str] = []
    for name in sorted(before.keys() | after.keys()):
        one, other = before.get(name), after.get(name)
        if one is not None and other is not None and one.value == other.value:
            continue
        role = (other or cast(Leaf, one)).info.role
        line = f"{name}: {_shown(one)} -> {_shown(other)}"
        (allowed if role.may_differ(inference) else refused).append(line)
    return allowed, refused


def _shown(leaf: Leaf | None) -> str:
    return "absent" if leaf is None else f"{leaf.value}"
