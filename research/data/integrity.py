"""Checksums of prepared files, stored beside them and compared when they are opened.

Files are read completely, in parallel parts: CRC-32 takes 0.3 s per GB on one core, which is little compared with
training, and damaged data are found before a run begins. ArrayRecord files have a checksum in every record, which is
compared when the record is read; here only their size is compared.
"""

import concurrent.futures
import json
import shlex
import zlib
from pathlib import Path

from research import files

NAME = "checksums.json"
PART = 16 * 2**20  # bytes per checksum


def write(folder: Path) -> None:
    """Stores the sizes and checksums of the files in `folder`."""
    paths = sorted(path for path in folder.iterdir() if path.is_file() and path.name != NAME)
    about = {path.name: [path.stat().st_size, None if _has_own_checksums(path) else _checksums(path)] for path in paths}
    files.write_atomically(folder / NAME, json.dumps(files.sealed({"files": about})))


def verify(folder: Path, prepare: str, needed: bool = False) -> None:
    """Compares the files in `folder` with their checksums.

    Args:
        folder: The folder that `write` was called on.
        prepare: The command that prepares the files again, for messages.
        needed: Whether missing checksums are an error; TFDS itself writes none.

    Raises:
        ValueError: A file is damaged or missing.
    """
    path = folder / NAME
    if not path.exists() and not needed:
        return
    try:
        about = json.loads(path.read_bytes())
        intact = "checksum" in about and files.is_intact(about)
    except (OSError, ValueError, TypeError):
        about, intact = {}, False
    if not intact:
        raise damaged(path, "its checksum is wrong", prepare)
    for name, (size, checksums) in about["files"].items():
        if problem := _problem(folder / name, size, checksums):
            raise damaged(folder / name, problem, prepare)


def damaged(path: Path, problem: str, prepare: str) -> ValueError:
    """The error for a damaged prepared file."""
    return ValueError(f"{path} is damaged ({problem}); prepare it again: {prepare_again(path.parent, prepare)}")


def prepare_again(folder: Path, prepare: str) -> str:
    """The shell commands that delete `folder` and prepare it again."""
    return f"rm -r {shlex.quote(str(folder))} && {prepare}"


def _problem(path: Path, size: int, checksums: list[int] | None) -> str | None:
    if not path.is_file():
        return "it is missing"
    if path.stat().st_size != size:
        return f"it has {path.stat().st_size:,} bytes, not {size:,}"
    return "its checksum is wrong" if checksums is not None and _checksums(path) != checksums else None


def _has_own_checksums(path: Path) -> bool:
    return ".array_record" in path.name


def _checksums(path: Path) -> list[int]:
    """One checksum per part of a file, in threads, since zlib releases the interpreter lock."""

    def of_part(start: int) -> int:
        with path.open("rb") as file:
            file.seek(start)
            return zlib.crc32(file.read(PART))

    with concurrent.futures.ThreadPoolExecutor() as pool:
        return list(pool.map(of_part, range(0, path.stat().st_size, PART)))
