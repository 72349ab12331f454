"""Folders that are there as a whole or not at all."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def whole_or_nothing(target: Path) -> Iterator[Path]:
    """A folder that takes the name `target` when all has gone well, and is removed otherwise, as are new parents of it.

    Raises ValueError where no folder can be made there.
    """
    made = [parent for parent in target.parents if not parent.exists()]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as error:
        raise ValueError(f"{target} cannot be made: {error.strerror}") from None
    try:
        yield folder
        if target.exists():  # which is empty
            target.rmdir()
        folder.chmod(0o777 & ~_umask())  # temporary folders are for their owner only
        os.rename(folder, target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        for parent in made if not target.exists() else ():
            with contextlib.suppress(OSError):  # others may use it by now
                parent.rmdir()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
