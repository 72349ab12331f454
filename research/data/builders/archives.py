"""Early checks of zip and tar archives that may be missing, truncated or damaged."""

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
    """Raises ValueError, with the file's name, if an archive is missing or truncated."""
    if not path.is_file():
        raise ValueError(f"{path} does not exist")
    with damage_named(path):
        if path.suffix == ".zip":
            zipfile.ZipFile(path).close()  # its directory is at the end
        elif path.suffix == ".tar":
            # A tar file that is truncated between two members lacks only its end mark.
            with path.open("rb") as file:
                file.seek(max(0, path.stat().st_size - TAR_END))
                if file.read() != bytes(TAR_END):
                    raise EOFError("no end mark")
        elif path.name.endswith((".tar.gz", ".tgz")):
            with tarfile.open(path) as archive:
                archive.getmembers()


def tar_members(file: Path | IO[bytes], name: str) -> Iterator[tuple[str, IO[bytes]]]:
    """Yields (name, open file) of every file in a tar archive. Raises ValueError, with `name`, if it is damaged."""
    options: Any = {"name" if isinstance(file, Path) else "fileobj": file}
    with damage_named(name), tarfile.open(**options) as archive:
        for member in archive:
            if member.isfile() and (content := archive.extractfile(member)):
                yield member.name, content
        # tarfile treats a damaged header and a truncated file as the end of the archive.
        archive.fileobj.seek(archive.offset)
        if archive.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError(f"neither header nor end mark at byte {archive.offset}")


@contextlib.contextmanager
def damage_named(path: Path | str) -> Iterator[None]:
    """Context manager that turns errors of archive readers into a one-line ValueError that names the file."""
    try:
        yield
    except (zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise ValueError(f"{path} is truncated or damaged ({error}); fetch it again") from error
