"""Converts values and command-line texts to the type of an annotation."""

import ast
import math
import types
import typing
from typing import Any, Literal, cast

_WORDS: dict[str, object] = {"true": True, "false": False, "none": None}
_LIMIT = 2**63  # integers must fit into 64 bits


class ConversionError(ValueError):
    """A value that cannot be converted; the message follows a field name: `=3.5 is a float; it must be an int`."""


def alternatives(annotation: object) -> tuple[object, ...]:
    """The members of a union; for any other annotation, itself alone."""
    union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    return typing.get_args(annotation) if union else (annotation,)


def to(value: object, annotation: object) -> object:
    """Converts `value` to `annotation`: an int to a float, a list to a tuple, also within tuples.

    Raises:
      ConversionError: The value has another type, is not finite, or exceeds 64 bits.
    """
    options = alternatives(annotation)
    for option in options:
        try:
            return _to_one(value, option)
        except ConversionError:
            if len(options) == 1:
                raise
    raise ConversionError(f"={_short(value)} is {_kind(value)}; it must be {' or '.join(map(name, options))}")


def _to_one(value: object, annotation: object) -> object:
    origin = typing.get_origin(annotation)
    if origin is tuple:
        return _to_tuple(value, typing.get_args(annotation))
    if origin is Literal:
        words = typing.get_args(annotation)
        if any(value is word or (type(value) is type(word) and value == word) for word in words):
            return value
        raise ConversionError(f"={_short(value)} is unknown; choose from {', '.join(map(str, words))}")
    if annotation is None or annotation is type(None):
        if value is None:
            return None
    elif annotation is float:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return _finite(value)
    elif (
        isinstance(annotation, type)
        and isinstance(value, annotation)
        and not (annotation is int and isinstance(value, bool))
    ):
        if isinstance(value, int) and not -_LIMIT <= value < _LIMIT:
            raise ConversionError(f"={_short(value)} does not fit 64 bits")
        if isinstance(value, str) and "\0" in value:  # invalid in file names and logs
            raise ConversionError(f"={_short(value)} holds a NUL character")
        return value
    raise ConversionError(f"={_short(value)} is {_kind(value)}; it must be {name(annotation)}")


def _finite(value: float) -> float:
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ConversionError(f"={_short(value)} must be a finite number")
    return number


def _to_tuple(value: object, items: tuple[Any, ...]) -> tuple[object, ...]:
    if not isinstance(value, list | tuple):
        raise ConversionError(f"={_short(value)} is {_kind(value)}; it must be a tuple, e.g. (1, 2)")
    values = tuple(cast("list[object] | tuple[object, ...]", value))
    if len(items) == 2 and items[1] is Ellipsis:
        return tuple(to(item, items[0]) for item in values)
    if len(values) != len(items):
        raise ConversionError(f"={_short(values)} has {len(values)} items; it must have {len(items)}")
    return tuple(to(item, kind) for item, kind in zip(values, items, strict=True))


def parse(text: str, annotation: object) -> object:
    """Parses a command-line `text` for a value of `annotation`; `to` checks the result.

    A str field takes the text unchanged. Numbers, tuples, True, False and None are written as in Python; true, false
    and none, and a tuple of words without quotes (`kernel,embedding`), are accepted as well.
    """
    options = alternatives(annotation)
    takes_text = any(option is str or typing.get_origin(option) is Literal for option in options)
    if takes_text and not (text.lower() == "none" and type(None) in options):
        return text
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        is_words = any(typing.get_args(option)[:1] == (str,) for option in options)
        return tuple(text.split(",")) if is_words and text[:1] not in "([" else text


def name(annotation: object) -> str:
    """An annotation for messages: `an int`, `a tuple of float`."""
    if annotation is None or annotation is type(None):
        return "None"
    if typing.get_origin(annotation) is tuple:
        items = [item for item in typing.get_args(annotation) if item is not Ellipsis]
        return "a tuple of " + ", ".join(name(item).removeprefix("a ").removeprefix("an ") for item in items)
    if typing.get_origin(annotation) is Literal:
        return f"one of {', '.join(map(str, typing.get_args(annotation)))}"
    word = getattr(annotation, "__name__", str(annotation))
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


def _kind(value: object) -> str:
    return name(type(value))


def _short(value: object) -> str:
    """A value for messages, at most 60 characters; very large integers by their number of bits."""
    if isinstance(value, int) and value.bit_length() > 200:
        return f"a number of {value.bit_length()} bits"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
