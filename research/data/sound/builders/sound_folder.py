"""A user's own sounds: PATH/{train,validation,test}.tsv of file<TAB>transcript, or one such file `transcripts.tsv`.

Files are named by their path below PATH; a third column may name the speaker. `val` and `dev` are `validation`. A
header may name the columns, and the layout of Common Voice (lists and `clips`) is read too.
"""

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar, NamedTuple

import tensorflow_datasets as tfds

from research.data.clips.builders import clip_folder
from research.data.sound import files as sound_files
from research.data.sound.builders import sound_lists, sounds
from research.data.text.builders.texts import TEXT

_NAMED = 3  # files of each kind that the summary lists


class Listed(NamedTuple):
    """A row of a list and its file below the root, None if it is missing."""

    row: sound_lists.ListedSound
    file: str | None


class SoundFolder(sounds.SoundBuilder, skip_registration=True):
    """The sounds in a folder, prepared under a digest of its path and of its files' names, sizes and times."""

    VERSION = tfds.core.Version("1.2.0")  # 1.1.0 stored no paths, 1.0.0 averaged channels that cancel each other
    fields: ClassVar = {**sounds.SoundBuilder.fields, "path": TEXT}
    skip_undecodable = False  # set by `prepare`

    def __init__(self, root: Path, lists: Mapping[str, list[Listed]], unlisted: list[str], hidden: int, **kwargs):
        self._root, self._lists, self._unlisted, self._hidden = root, lists, unlisted, hidden
        self._left_out: dict[str, list[str]] = defaultdict(list)  # reason -> files
        super().__init__(**kwargs)

    @classmethod
    def of(cls, path: str, data_dir: Path) -> "SoundFolder":
        """The builder of the folder `path`.

        Raises ValueError for lists that cannot be read, that list a file twice, or a file outside `path`.
        """
        root = Path(path).expanduser().resolve()
        lists = sound_lists.find(root)
        if "train" not in lists:
            raise ValueError(
                f"{root} holds sounds but neither train.tsv nor transcripts.tsv; see docs/data.md for their format"
            )
        files = sound_lists.Files(root)
        listed = {
            split: [Listed(row, files.find(row)) for row in sound_lists.read(file)] for split, file in lists.items()
        }
        named: dict[str, Path] = {}
        for split, file in lists.items():
            for row, name in listed[split]:
                if name in named:
                    raise ValueError(f"{row.name!r} has two transcripts, in {named[name]} and in {file}; keep one")
                if name:
                    named[name] = file
        digest = hashlib.sha256(os.fsencode(root))
        for part in (*lists.values(), *(root / name for name in sorted(named))):
            stat = part.stat()
            digest.update(os.fsencode(part.relative_to(root)) + f" {stat.st_size} {stat.st_mtime_ns}\n".encode())
        config = tfds.core.BuilderConfig(name=digest.hexdigest()[:16], description=f"The sounds in {root}.")
        unlisted = sorted(files.paths.keys() - named.keys())
        return cls(root, listed, unlisted, files.hidden, config=config, data_dir=data_dir, file_format="array_record")

    def examples(self, folder: Path):
        """See TextBuilder. Raises ValueError for a row that cannot be used, unless `skip_undecodable`."""
        return {split: self._read(rows) for split, rows in self._lists.items()}

    def _read(self, rows: list[Listed]) -> Iterator[dict]:
        used, reason = 0, ""
        for listed in rows:
            try:
                example = self._example(listed)
            except _UnusableError as error:
                if not self.skip_undecodable:
                    raise ValueError(f"{error}; fix it, or prepare with --skip_undecodable") from None
                self._left_out[error.kind].append(listed.row.name)
                reason = str(error)
                continue
            used += 1
            yield example
        if not used:
            raise ValueError(f"none of the {len(rows):,} sounds can be used; the last one: {reason}")

    def _example(self, listed: Listed) -> dict:
        (location, name, text, speaker), file = listed
        if file is None:
            where = location.partition(", line")[0]
            raise _UnusableError(
                "absent", f"{where} has a transcript of {name!r}, but there is no such file in {self._root}"
            )
        if not any(map(str.isalnum, text)):  # word error rates need words
            raise _UnusableError("without words", f"{location}: the transcript {text!r} of {name!r} has no words")
        try:
            sound = sound_files.read_any_length(self._root / file)
        except ValueError as error:
            raise _UnusableError("unusable", str(error)) from None
        if problem := sound_files.short(sound):
            raise _UnusableError(f"shorter than {sound_files.MIN_SECONDS} s", f"sound {name!r} {problem}")
        return {**sounds.example(sound, text, speaker), "path": file}

    def summary(self) -> str:
        """The files that were left out or are not listed, with some of their names."""
        kinds = {f"{kind}, left out": names for kind, names in self._left_out.items()}
        kinds["in no list, ignored"] = self._unlisted
        parts = [f"{len(names):,} {kind} ({_some(names)})" for kind, names in kinds.items() if names]
        return ", ".join(parts + [f"{self._hidden:,} hidden, ignored"] * bool(self._hidden)) or "nothing left out"


class _UnusableError(Exception):
    """A row that cannot be used; the summary counts them by `kind`."""

    def __init__(self, kind: str, message: str):
        super().__init__(message)
        self.kind = kind


def holds_sounds(path: str) -> bool:
    """Whether the folder `path` holds sound files, or lists of videos with transcripts."""
    root = Path(path).expanduser()
    if not root.is_dir():
        return False
    suffixes = {Path(name).suffix.lower() for name in sound_lists.Files(root).paths}
    lists = sound_lists.find(root)
    if not suffixes.isdisjoint(sound_files.SUFFIXES):
        return bool(lists) or not clip_folder.holds_videos(path)
    if not suffixes or "train" not in lists:
        return False
    return Path(sound_lists.read(lists["train"])[0].name).suffix.lower() in sound_files.VIDEO_SUFFIXES


def _some(names: list[str]) -> str:
    shown = [name.encode(errors="backslashreplace").decode() for name in names[:_NAMED]]
    return ", ".join(shown) + (", ..." if len(names) > _NAMED else "")
