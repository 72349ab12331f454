"""A user's own sounds: PATH/{train,validation,test}.tsv of file<TAB>transcript, or one such file `transcripts.tsv`.

Files are named as they lie below PATH; a third column may name the speaker. `val` and `dev` are `validation`.
"""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import tensorflow_datasets as tfds

from research.data import sound_files
from research.data.builders import sounds, text_files
from research.data.builders.text_folder import SPLIT_FILES

LISTS = {**SPLIT_FILES, "transcripts": "train"}
Row = tuple[str, ...]  # file, transcript and, where it is known, speaker


class SoundFolder(sounds.SoundBuilder, skip_registration=True):
    """The sounds in a folder, prepared under a digest of its path and of its files' names, sizes and times."""

    def __init__(self, root: Path, lists: Mapping[str, list[Row]], **kwargs):
        self._root, self._lists = root, lists
        super().__init__(**kwargs)

    @classmethod
    def of(cls, path: str, data_dir: Path) -> "SoundFolder":
        """The builder of the folder `path`. Raises ValueError for a sound without its transcript and the reverse."""
        root = Path(path).expanduser().resolve()
        files = _find_lists(root)
        lists = {split: _rows(file) for split, file in files.items()}
        present = _find_sounds(root)
        named: dict[str, Path] = {}
        for split, file in files.items():
            for name, *_ in lists[split]:
                if name not in present:
                    raise ValueError(f"{file} has a transcript of {name!r}, but there is no such file in {root}")
                if name in named:
                    raise ValueError(f"{name!r} has two transcripts, in {named[name]} and in {file}; keep one")
                named[name] = file
        if left := sorted(present.keys() - named.keys()):
            where = " or ".join(file.name for file in files.values())
            raise ValueError(f"{root / left[0]} has no transcript in {where} ({len(left):,} such files)")
        digest = hashlib.sha256(str(root).encode())
        for part in (*files.values(), *(present[name] for name in sorted(present))):
            stat = part.stat()
            digest.update(f"{part.relative_to(root)} {stat.st_size} {stat.st_mtime_ns}\n".encode())
        config = tfds.core.BuilderConfig(name=digest.hexdigest()[:16], description=f"The sounds in {root}.")
        return cls(root, lists, config=config, data_dir=data_dir, file_format="array_record")

    def examples(self, folder: Path):
        """See TextBuilder. Raises ValueError for a file that is no sound, see sound_files."""
        return {split: self._read(rows) for split, rows in self._lists.items()}

    def _read(self, rows: list[Row]) -> Iterator[dict]:
        for name, text, *speaker in rows:
            yield sounds.example(sound_files.read(self._root / name), text.strip(), *speaker)


def holds_sounds(path: str) -> bool:
    """Whether the folder `path` holds sound files."""
    root = Path(path).expanduser()
    return root.is_dir() and bool(_find_sounds(root.resolve()))


def _find_sounds(root: Path) -> dict[str, Path]:
    paths = (path for path in root.rglob("*") if path.suffix.lower() in sound_files.SUFFIXES and path.is_file())
    return {path.relative_to(root).as_posix(): path for path in paths}


def _find_lists(root: Path) -> dict[str, Path]:
    """Split -> its list. Raises ValueError for two lists of one split, and where there is none of train."""
    files: dict[str, Path] = {}
    for stem, split in LISTS.items():
        file = root / f"{stem}.tsv"
        if not file.is_file():
            continue
        if split in files:
            raise ValueError(f"{files[split]} and {file} are both the {split} split; keep one")
        files[split] = file
    if "train" not in files:
        raise ValueError(f"{root} holds sounds but neither train.tsv nor transcripts.tsv; see the README for its form")
    return files


def _rows(file: Path) -> list[Row]:
    """The rows of a list of two or of three columns."""
    columns = text_files.lines(file)[0].count("\t") + 1
    rows = [tuple(row) for row in text_files.tsv(file, 3 if columns == 3 else 2)]
    for number, row in enumerate(rows, start=1):
        if not any(map(str.isalnum, row[1])):  # which no score of words could count
            raise ValueError(f"{file}, line {number}: the transcript {row[1]!r} has no words")
    return rows
