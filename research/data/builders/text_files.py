"""Reads lines, columns and JSON objects from text files, gzipped or not; errors name the file and the line."""

import codecs
import gzip
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from research.data.builders.archives import damage_named

# Byte order marks; UTF-32 before UTF-16, whose mark is a prefix of it.
_MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}


def lines(path: Path) -> list[str]:
    """The lines of a file, see `read`. Raises ValueError, see `split_lines`."""
    return split_lines(read(path), path)


def read(path: Path) -> bytes:
    """The bytes of a file, decompressed if its name ends in .gz."""
    with damage_named(path):
        return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()


def text(path: Path) -> str:
    """The text of a file, see `unicode_text`. Raises ValueError, with its name, for other bytes."""
    return unicode_text(read(path), path)


def unicode_text(content: bytes, name: Path | str) -> str:
    """Decodes UTF-8, or UTF-16 or UTF-32 with a byte order mark; `name` is used in messages.

    Line ends become line feeds. Raises ValueError for other encodings and for NUL characters.
    """
    mark = next(filter(content.startswith, _MARKS), b"")
    encoding = _MARKS.get(mark, "utf-8")
    content = content.removeprefix(mark)
    try:
        found = content.decode(encoding)
    except UnicodeDecodeError as error:
        before = content[: error.start].decode(encoding, errors="replace")
        start = error.start - content.rfind(b"\n", 0, error.start) - 1
        where = f"{name}, line {_line_of(before)}"
        why = f"invalid {encoding.upper()} ({error.reason} at byte {start})"
        raise ValueError(f"{where}: {why}; save the file as UTF-8") from None
    if "\0" in found:
        line = _line_of(found[: found.index("\0")])
        raise ValueError(f"{name}, line {line} holds a NUL character; remove it, and save the file as UTF-8")
    # Windows ends lines with CR LF, old Macs with CR alone.
    return found.replace("\r\n", "\n") if "\n" in found else found.replace("\r", "\n")


def _line_of(before: str) -> int:
    """The number of the line that begins after this text."""
    return before.count("\n" if "\n" in before else "\r") + 1


def split_lines(content: bytes, name: Path | str) -> list[str]:
    """The lines of a file, see `unicode_text`. Raises ValueError for an empty line too."""
    found = any_lines(content, name)
    for number, line in enumerate(found, start=1):
        if not line.strip():
            raise ValueError(f"{name}, line {number} is empty; fill or remove it")
    return found


def any_lines(content: bytes, name: Path | str) -> list[str]:
    """The lines of a file, also empty ones. Raises ValueError as `unicode_text`."""
    # Not str.splitlines, which also splits at characters such as U+2028.
    return unicode_text(content, name).removesuffix("\n").split("\n")


def decode(content: bytes, name: str) -> str:
    """Decodes UTF-8. Raises ValueError, with `name`, for other bytes."""
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{name}: invalid UTF-8 ({error.reason} at byte {error.start})") from None


def parallel(paths: Sequence[Path]) -> list[tuple[str, ...]]:
    """The corresponding lines of parallel files. Raises ValueError if their numbers of lines differ."""
    columns = [lines(path) for path in paths]
    first = columns[0]
    for path, column in zip(paths, columns, strict=True):
        if len(column) != len(first):
            raise ValueError(
                f"{paths[0]} has {len(first):,} lines, {path} has {len(column):,}; both need the same number of lines, "
                "each with its translation"
            )
    return list(zip(*columns, strict=True))


def tsv(path: Path, columns: int) -> list[list[str]]:
    """The tab-separated columns of each line. Raises ValueError for another number of columns and for empty cells."""
    rows = [line.split("\t") for line in lines(path)]
    for number, row in enumerate(rows, start=1):
        if len(row) != columns:
            raise ValueError(f"{path}, line {number} has {len(row)} tab-separated columns; it must have {columns}")
        if not all(cell.strip() for cell in row):
            empty = [bool(cell.strip()) for cell in row].index(False)
            raise ValueError(f"{path}, line {number}: column {empty + 1} is empty; fill it or remove the line")
    return rows


def jsonl(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields (line number, JSON object) of each line. Raises ValueError for anything else."""
    for number, line in enumerate(lines(path), start=1):
        value = parse_json(line, f"{path}, line {number}")
        if not isinstance(value, dict):
            raise ValueError(f"{path}, line {number} is a JSON {type(value).__name__}; it must be an object")
        yield number, value


def parse_json(content: str, name: str) -> Any:
    """Parses JSON. Raises ValueError, in one line with `name`, if it is invalid."""
    try:
        value = json.loads(content)
        json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}" if "\n" in content else f"column {error.colno}"
        raise ValueError(f"{name} is not JSON ({error.msg} at {where})") from None
    except UnicodeEncodeError:
        raise ValueError(f"{name}: invalid UTF-8 (half of a surrogate pair)") from None
    except RecursionError:
        raise ValueError(f"{name} is JSON that is nested too deeply") from None
    except ValueError as error:  # such as a number of more than 4,300 digits
        raise ValueError(f"{name} is not readable JSON ({error})") from None
    return value
