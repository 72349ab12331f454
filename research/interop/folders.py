"""Folders that are created atomically."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def atomic_directory(target: Path) -> Iterator[Path]:
    """A temporary folder that is renamed to `target` on success, and removed on errors, with any new parents.

    Raises ValueError if the folder cannot be created.
    """
    made = [parent for parent in target.parents if not parent.exists()]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as error:
        raise ValueError(f"{target} cannot be created: {error.strerror}; choose another folder") from None
    try:
        yield folder
        if target.exists():  # an empty folder
            target.rmdir()
        folder.chmod(0o777 & ~_umask())  # temporary folders are accessible to their owner only
        os.rename(folder, target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        for parent in made if not target.exists() else ():
            with contextlib.suppress(OSError):  # others may be using it
                parent.rmdir()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
