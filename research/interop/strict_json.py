"""Strict parsing of JSON objects from untrusted files."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

MOST_BYTES = 100_000_000  # the limit of safetensors headers


def read(path: Path) -> dict[str, Any]:
    """The object in the file at `path`. Raises ValueError as `parse`, and if it cannot be read or is too long."""
    try:
        size = path.stat().st_size
        if size > MOST_BYTES:
            raise ValueError(f"{path} has {size:,} bytes; at most {MOST_BYTES:,} are allowed; copy it again")
        data = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    return parse(data, str(path))


def parse(data: bytes, name: str) -> dict[str, Any]:
    """The object in `data`, UTF-8; `name` is used in messages.

    Raises ValueError for invalid JSON, and for what parsers treat differently: NaN and duplicate keys.
    """

    def pairs(found: Iterable[tuple[str, Any]]) -> dict[str, Any]:
        made: dict[str, Any] = {}
        for key, value in found:
            if key in made:
                raise _RefusedError(f"it has the key {key[:80]!r} twice")
            if not key.isprintable():  # line ends, and halves of a character that no file could hold
                raise _RefusedError(f"the key {key[:80]!r} has characters that cannot be printed")
            made[key] = value
        return made

    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=pairs, parse_constant=_constant)
    except _RefusedError as error:
        raise ValueError(f"{name} is invalid: {error}; copy it again") from None
    except RecursionError:
        raise ValueError(f"{name} is invalid: it is nested too deeply; copy it again") from None
    except ValueError as error:  # invalid UTF-8 or JSON, or a number with thousands of digits
        raise ValueError(f"{name} is not JSON ({_line(error)}); copy it again") from None
    if not isinstance(value, dict):
        raise ValueError(f"{name} is not a JSON object; copy it again")
    return value


class _RefusedError(Exception):
    """An error in what JSON, or Python's parser, would allow."""


def _constant(name: str) -> NoReturn:
    raise _RefusedError(f"{name} is not a number in JSON")


def _line(error: ValueError) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"byte {error.start} is not UTF-8"
    return str(error).partition(";")[0]
