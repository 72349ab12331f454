"""Zip and tar archives that may be absent, truncated or damaged: found early, and named."""

import contextlib
import gzip
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

TAR_END = 1024  # bytes: two zero blocks


def check(path: Path) -> None:
    """Raises ValueError, naming the file, for one that is absent, and for an archive whose end is missing."""
    if not path.is_file():
        raise ValueError(f"{path} does not exist")
    with damage_named(path):
        if path.suffix == ".zip":
            zipfile.ZipFile(path).close()  # its table of contents comes last
        elif path.suffix == ".tar":
            # Cut off between two members, a tar file would look whole but for its end mark.
            with path.open("rb") as file:
                file.seek(max(0, path.stat().st_size - TAR_END))
                if file.read() != bytes(TAR_END):
                    raise EOFError("no end mark")
        elif path.name.endswith((".tar.gz", ".tgz")):
            with tarfile.open(path) as archive:
                archive.getmembers()


def tar_members(file: Path | IO[bytes], name: str) -> Iterator[tuple[str, IO[bytes]]]:
    """(name, open file) of every file in a tar archive that messages call `name`; a damaged one is a ValueError."""
    options: Any = {"name" if isinstance(file, Path) else "fileobj": file}
    with damage_named(name), tarfile.open(**options) as archive:
        for member in archive:
            if member.isfile() and (content := archive.extractfile(member)):
                yield member.name, content
        # To tarfile a damaged header and a file that just stops are ends like any other.
        archive.fileobj.seek(archive.offset)
        if archive.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError(f"neither header nor end mark at byte {archive.offset}")


@contextlib.contextmanager
def damage_named(path: Path | str) -> Iterator[None]:
    """Turns what the readers of a damaged archive raise into one line that names the file."""
    try:
        yield
    except (zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise ValueError(f"{path} is truncated or damaged ({error}); fetch it again") from error
