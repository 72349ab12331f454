"""Shared by all `folder:PATH` data sets: the folders of splits, their files, and a digest of them."""

import hashlib
from collections.abc import Container, Mapping, Sequence
from pathlib import Path

from research.data.builders import class_folders


def digest(root: Path, splits: Mapping[str, Sequence[Path]], beside: Sequence[str] = ()) -> str:
    """A digest of the path of a folder and of the names, sizes and times of its files and of those `beside`.

    Returns 16 hex digits.
    """
    result = hashlib.sha256(str(root).encode())
    others = {"beside": [name for name in beside if (root / name).is_file()]} if beside else {}
    for split, files in {**splits, **others}.items():
        for file in files:
            stat = (root / file).stat()
            result.update(f"{split} {file} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return result.hexdigest()[:16]


def files(path: Path, suffixes: Container[str]) -> list[Path]:
    """The files of a folder with these suffixes, sorted, without hidden ones."""
    shown = (file for file in path.glob("*") if not class_folders.is_hidden(file.relative_to(path)))
    return sorted(file for file in shown if file.suffix.lower() in suffixes and file.is_file())


def split_folders(root: Path) -> dict[str, Path]:
    """Split -> its folder, if any. Raises ValueError for a split with two folders, such as `val` and `valid`."""
    found = {}
    for folder in sorted(root.glob("*/")):
        split = class_folders.SPLIT_NAMES.get(folder.name.lower())
        if split in found:
            raise ValueError(f"{found[split]} and {folder} are both folders for {split}; keep one of them")
        if split is not None:
            found[split] = folder
    return found
