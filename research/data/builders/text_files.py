"""Lines, columns and JSON objects of text files, gzipped or not; what is wrong with one is named by file and line."""

import gzip
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from research.data.builders.archives import damage_named

_MARK = b"\xef\xbb\xbf"  # with which some editors begin a file in UTF-8


def lines(path: Path) -> list[str]:
    """The lines of a file, see `read`. Raises ValueError, see `split_lines`."""
    return split_lines(read(path), path)


def read(path: Path) -> bytes:
    """The bytes of a file, unpacked where its name ends in .gz."""
    with damage_named(path):
        return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()


def text(path: Path) -> str:
    """The text of a UTF-8 file. Raises ValueError, with its name, for other bytes."""
    return decode(read(path).removeprefix(_MARK), str(path))


def split_lines(content: bytes, name: Path | str) -> list[str]:
    """The lines of a UTF-8 file that messages call `name`. Raises ValueError for an empty line and for other bytes."""
    # Not str.splitlines, which also splits at characters such as U+2028.
    found = content.removeprefix(_MARK).removesuffix(b"\n").split(b"\n")
    decoded = []
    for number, line in enumerate(found, start=1):
        decoded.append(decode(line, f"{name}, line {number}").removesuffix("\r"))
        if not decoded[-1].strip():
            raise ValueError(f"{name}, line {number} is empty; fill it or remove it")
    return decoded


def decode(content: bytes, name: str) -> str:
    """The text of UTF-8 bytes that messages call `name`. Raises ValueError for other bytes."""
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{name}: invalid UTF-8 ({error.reason} at byte {error.start})") from None


def parallel(paths: Sequence[Path]) -> list[tuple[str, ...]]:
    """Line by line what stands in each of the files. Raises ValueError where their numbers of lines differ."""
    columns = [lines(path) for path in paths]
    first = columns[0]
    for path, column in zip(paths, columns, strict=True):
        if len(column) != len(first):
            raise ValueError(
                f"{paths[0]} has {len(first):,} lines, {path} has {len(column):,}; each line must have its translation"
            )
    return list(zip(*columns, strict=True))


def tsv(path: Path, columns: int) -> list[list[str]]:
    """The tab-separated columns of each line. Raises ValueError for another number of them and for an empty one."""
    rows = [line.split("\t") for line in lines(path)]
    for number, row in enumerate(rows, start=1):
        if len(row) != columns:
            raise ValueError(f"{path}, line {number} has {len(row)} columns between tabs; it must have {columns}")
        if not all(cell.strip() for cell in row):
            empty = [bool(cell.strip()) for cell in row].index(False)
            raise ValueError(f"{path}, line {number}: column {empty + 1} is empty")
    return rows


def jsonl(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The JSON object on each line, with the line's number. Raises ValueError for what is none."""
    for number, line in enumerate(lines(path), start=1):
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {number} is no JSON ({error.msg} at column {error.colno})") from None
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ValueError(f"{path}, line {number}: invalid UTF-8 (half of a surrogate pair)") from None
        if not isinstance(value, dict):
            raise ValueError(f"{path}, line {number} is a JSON {type(value).__name__}, not an object")
        yield number, value
