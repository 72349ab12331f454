"""Checksums of prepared files, stored beside them and compared when they are opened.

All of a file is read then, in parts side by side: CRC-32 takes 0.3 s a GB on one core, which is little beside the
minutes that its tokens take to be trained on, and a run on damaged data is found before it begins. ArrayRecord files
have checksums in every record, which are compared when that is read; of them only the size is.
"""

import concurrent.futures
import json
import shlex
import zlib
from pathlib import Path

from research import files

NAME = "checksums.json"
PART = 16 * 2**20  # bytes that are summed up at a time


def write(folder: Path) -> None:
    """Stores the sizes and checksums of the files in `folder`."""
    paths = sorted(path for path in folder.iterdir() if path.is_file() and path.name != NAME)
    about = {path.name: [path.stat().st_size, None if _sums_itself(path) else _checksums(path)] for path in paths}
    files.write_atomically(folder / NAME, json.dumps(files.sealed({"files": about})))


def verify(folder: Path, prepare: str, needed: bool = False) -> None:
    """Raises ValueError for a file in `folder` that is damaged or gone; `prepare` is the command that makes it again.

    Without checksums, as TFDS prepares a data set, nothing can be said, unless they are `needed`.
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
    """What to raise for a prepared file that is damaged."""
    return ValueError(f"{path} is damaged ({problem}); prepare it again: {remake(path.parent, prepare)}")


def remake(folder: Path, prepare: str) -> str:
    """The commands that prepare what lies in `folder` again."""
    return f"rm -r {shlex.quote(str(folder))} && {prepare}"


def _problem(path: Path, size: int, checksums: list[int] | None) -> str | None:
    if not path.is_file():
        return "it is gone"
    if path.stat().st_size != size:
        return f"it has {path.stat().st_size:,} bytes, not {size:,}"
    return "its checksum is wrong" if checksums is not None and _checksums(path) != checksums else None


def _sums_itself(path: Path) -> bool:
    return ".array_record" in path.name


def _checksums(path: Path) -> list[int]:
    """One checksum for each part of a file. zlib works outside the interpreter lock: threads."""

    def of_part(start: int) -> int:
        with path.open("rb") as file:
            file.seek(start)
            return zlib.crc32(file.read(PART))

    with concurrent.futures.ThreadPoolExecutor() as pool:
        return list(pool.map(of_part, range(0, path.stat().st_size, PART)))
