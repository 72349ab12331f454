"""Reads tab-separated lists of sounds and transcripts, also those of Common Voice."""

import re
import unicodedata
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from research.data.builders import text_files
from research.data.builders.class_folders import is_hidden
from research.data.sound import files as sound_files
from research.data.text.builders.text_folder import SPLIT_FILES

LISTS = {**SPLIT_FILES, "transcripts": "train"}
VALIDATED = "validated"  # Common Voice's list of all sounds; train if there is no other list
CLIPS = "clips"  # the folder of Common Voice's sounds
MEDIA = (*sound_files.SUFFIXES, *sound_files.VIDEO_SUFFIXES)
# The accepted names of a column in a header.
COLUMNS = {
    "name": ("path", "file", "file_name", "filename", "audio", "clip"),
    "text": ("sentence", "text", "transcript", "transcription"),
    "speaker": ("client_id", "speaker", "speaker_id"),
}


class ListedSound(NamedTuple):
    """A line of a list: the name of a sound, its transcript, and its speaker ("": unknown)."""

    location: str  # file and line, for messages
    name: str
    text: str
    speaker: str = ""


def find(root: Path) -> dict[str, Path]:
    """Split -> its list below `root`. Raises ValueError for two lists of one split."""
    files: dict[str, Path] = {}
    for stem, split in LISTS.items():
        file = root / f"{stem}.tsv"
        if not file.is_file():
            continue
        if split in files:
            raise ValueError(f"{files[split]} and {file} are both the {split} split; keep one")
        files[split] = file
    if not files and (root / f"{VALIDATED}.tsv").is_file():
        files["train"] = root / f"{VALIDATED}.tsv"
    return files


def read(file: Path) -> list[ListedSound]:
    """The rows of a list: file, transcript and optionally speaker, or the columns given by its header.

    Raises ValueError for a line whose number of columns differs from the first line, and for one without a file.
    """
    cells = [line.split("\t") for line in text_files.lines(file)]
    columns, header = _columns(cells[0])
    rows = []
    for number, row in enumerate(cells, start=1):
        if len(row) != (len(cells[0]) if header else len(columns)):
            wanted = len(cells[0]) if header else len(columns)
            raise ValueError(f"{file}, line {number} has {len(row)} tab-separated columns; it must have {wanted}")
        if header and number == 1:
            continue
        found = {name: row[column].strip() for name, column in columns.items()}
        if not found["name"]:
            raise ValueError(f"{file}, line {number} has no file name; fill it or remove the line")
        rows.append(ListedSound(f"{file}, line {number}", **found))
    if not rows:
        raise ValueError(f"{file} holds only a header; add a line for each sound")
    return rows


def _columns(first: list[str]) -> tuple[dict[str, int], bool]:
    """The index of each column, and whether `first` is a header."""
    names = [cell.strip().lower() for cell in first]
    found = {
        what: next(names.index(known) for known in choices if known in names)
        for what, choices in COLUMNS.items()
        if not set(choices).isdisjoint(names)
    }
    if {"name", "text"} <= found.keys():
        return found, True
    return {"name": 0, "text": 1, **({"speaker": 2} if len(first) == 3 else {})}, False


class Files:
    """The sound files below `root` that are not hidden, with tolerant lookup by name."""

    def __init__(self, root: Path):
        self._root = root
        paths = {path.relative_to(root).as_posix(): path for path in root.rglob("*") if is_media(path)}
        self.paths: Mapping[str, Path] = {
            name: path for name, path in paths.items() if not is_hidden(PurePosixPath(name))
        }
        self.hidden = len(paths) - len(self.paths)

    @cached_property
    def _composed(self) -> dict[str, str]:
        return {_composed(name): name for name in self.paths}

    def find(self, row: ListedSound) -> str | None:
        """The path below `root` of the file of a row; None if there is none.

        Names may have Windows separators, composed or decomposed accents, and lack the folder of Common Voice.
        Raises ValueError for a name that points outside `root`.
        """
        if row.name in self.paths:
            return row.name
        name = row.name.replace("\\", "/")
        if name.startswith("/") or re.match("[A-Za-z]:/", name) or ".." in name.split("/"):
            raise ValueError(f"{row.location}: {row.name!r} is outside {self._root}; use paths below it")
        for candidate in (str(PurePosixPath(name)), str(PurePosixPath(CLIPS, name))):
            if found := self._composed.get(_composed(candidate)):
                return found
            if "\0" not in candidate and (self._root / candidate).is_file():  # with any suffix
                return candidate
        return None


def is_media(path: Path) -> bool:
    """Whether a path is a file with the suffix of a sound or a video."""
    return path.suffix.lower() in MEDIA and path.is_file()


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)
