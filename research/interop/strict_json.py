"""JSON from files that others wrote: an object, or a ValueError in one line that names the file and what is wrong."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

MOST_BYTES = 100_000_000  # as long as a header of safetensors may be


def read(path: Path) -> dict[str, Any]:
    """The object in the file at `path`."""
    try:
        size = path.stat().st_size
        if size > MOST_BYTES:
            raise ValueError(f"{path} has {size:,} bytes, which is too long for a file of settings; copy it again")
        data = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    return parse(data, str(path))


def parse(data: bytes, name: str) -> dict[str, Any]:
    """The object in `data`, which is UTF-8; `name` is what an error calls it.

    Refuses what JSON has not or leaves open, and readers disagree about: NaN, a key that is there twice.
    """

    def pairs(found: Iterable[tuple[str, Any]]) -> dict[str, Any]:
        made: dict[str, Any] = {}
        for key, value in found:
            if key in made:
                raise _RefusedError(f"the key {key[:80]!r} is there twice")
            if not key.isprintable():  # line ends, and halves of a character that no file could hold
                raise _RefusedError(f"the key {key[:80]!r} has characters that cannot be printed")
            made[key] = value
        return made

    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=pairs, parse_constant=_constant)
    except _RefusedError as error:
        raise ValueError(f"{name} is refused: {error}; copy it again") from None
    except RecursionError:
        raise ValueError(f"{name} is refused: it is nested too deeply; copy it again") from None
    except ValueError as error:  # of UTF-8, of JSON, and of a number with thousands of digits
        raise ValueError(f"{name} is not JSON ({_line(error)}); copy it again") from None
    if not isinstance(value, dict):
        raise ValueError(f"{name} is no JSON object; copy it again")
    return value


class _RefusedError(Exception):
    """What JSON would allow, or Python's reader does."""


def _constant(name: str) -> NoReturn:
    raise _RefusedError(f"{name} is no number of JSON")


def _line(error: ValueError) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"byte {error.start} is not UTF-8"
    return str(error).partition(";")[0]
