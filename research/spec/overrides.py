"""`override(experiment, ["train.steps=100", "model=resnet"])`: a spec with some fields replaced."""

import dataclasses
import difflib
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from research.spec import convert
from research.spec.fields import FieldError, FieldInfo, Spec, infos, members

AnySpec = TypeVar("AnySpec", bound=Spec)


class _Edit(NamedTuple):
    """One override: the path of the field, and the text of its value."""

    path: tuple[str, ...]
    text: str


def override(value: AnySpec, words: Sequence[str]) -> AnySpec:
    """Applies overrides `words` such as `train.steps=100` to `value`, in order.

    A member of a union of specs is chosen by its tag (`model=resnet`) and starts from its defaults. Specs are rebuilt
    bottom-up after all overrides are known, so that checks run on the final values.

    Raises:
      FieldError: An unknown field (the message has the nearest names and the file that declares its group), or a value
        of the wrong type or out of range.
    """
    edits = [_parse(word) for word in words]
    return _edited(type(value), _values(value), edits)


def _parse(word: str) -> _Edit:
    path, equals, text = word.partition("=")
    if not equals:
        raise FieldError((path,), f" has no value; write {path}=VALUE")
    return _Edit(tuple(path.split(".")), text)


def _values(value: Spec) -> dict[str, Any]:
    return {each.name: getattr(value, each.name) for each in infos(type(value))}


def _edited(cls: type[AnySpec], values: dict[str, Any], edits: Sequence[_Edit]) -> AnySpec:
    """A spec of class `cls` from its current `values` with the edits applied."""
    declared = {each.name: each for each in infos(cls)}
    renamed = {each.renamed: each.name for each in infos(cls) if each.renamed}  # as in recorded commands
    grouped: dict[str, list[_Edit]] = {}
    for edit in edits:
        name = renamed.get(edit.path[0], edit.path[0])
        if name not in declared:
            raise unknown(cls, name)
        grouped.setdefault(name, []).append(_Edit(edit.path[1:], edit.text))
    for name, below in grouped.items():
        options = members(declared[name].annotation)
        try:
            if options:
                values[name] = _nested(options, values.get(name), below)
            else:
                values[name] = _leaf(declared[name], below)
        except convert.ConversionError as error:
            raise FieldError((name,), str(error)) from None
        except FieldError as error:
            raise error.below(name) from None
    missing = [each.name for each in declared.values() if each.default is dataclasses.MISSING]
    if absent := [name for name in missing if name not in values]:
        raise FieldError((absent[0],), f" must be given; {cls.tag or cls.__name__} has no default for it")
    return cls(**values)


def _leaf(declared: FieldInfo, edits: Sequence[_Edit]) -> object:
    """The value of a field by the last of several overrides, under its current name."""
    for edit in edits:
        if edit.path:
            raise FieldError(edit.path, " is unknown: the field above it is not a group")
    annotation = declared.annotation
    return declared.current(convert.to(convert.parse(edits[-1].text, annotation), annotation))


def _nested(options: tuple[type[Spec], ...], value: Spec | None, edits: Sequence[_Edit]) -> Spec:
    """The spec of a group: chosen by its tag if an override does so, then edited."""
    cls = type(value) if value is not None else options[0]
    values = _values(value) if value is not None else {}
    below: list[_Edit] = []
    for edit in edits:
        if edit.path:
            below.append(edit)
        elif below:
            lost = ".".join(below[0].path)
            raise FieldError(
                (), f"={edit.text} begins with its defaults, so {lost} before it would be lost; put it first"
            )
        else:
            cls, values = _choose(options, edit.text), {}
    return _edited(cls, values, below)


def _choose(options: tuple[type[Spec], ...], tag: str) -> type[Spec]:
    known = {option.tag: option for option in options}
    if tag not in known:
        if len(known) > 1:
            raise FieldError((), f"={tag!r} is unknown; choose from {', '.join(sorted(known))}")
        fields = ", ".join(each.name for each in infos(options[0]))
        raise FieldError((), f"={tag!r} is a group; set one of its fields: {fields}")
    return known[tag]


def unknown(cls: type[Spec], name: str) -> FieldError:
    """The error to raise for a field that a spec does not have: the nearest names, and where it is declared."""
    names = [each.name for each in infos(cls)]
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"choose from {', '.join(names)}"
    return FieldError((name,), f" is unknown; {hint} ({place(cls)})")


def place(cls: type[Spec]) -> str:
    """The file and line where a spec is declared, such as `research/train/settings.py:12`."""
    try:
        file, line = inspect.getsourcefile(cls), inspect.getsourcelines(cls)[1]
    except (OSError, TypeError):
        return cls.__qualname__
    path = Path(file or cls.__qualname__)
    root = Path(__file__).resolve().parents[2]
    return f"{path.relative_to(root) if root in path.parents else path}:{line}"
