"""A user's own texts: PATH/{train,validation,test}.{tsv,jsonl}, or one such file, or parallel files.

    tsv       source<TAB>target
    jsonl     objects with the same keys on every line, of strings or lists of strings: `source` and `target`, or
              whatever the config's templates name; `references` lists more accepted targets
    parallel  PATH/train.source and PATH/train.target, a text a line

`val` and `dev` are `validation`; files may be gzipped (.gz). A single file is the train split.
"""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from research.data import templates
from research.data.builders import text_files
from research.data.builders.texts import TEXT, TEXTS, TextBuilder

SPLIT_FILES = {"train": "train", "validation": "validation", "val": "validation", "dev": "validation", "test": "test"}
KINDS = ("tsv", "jsonl", "source")
SIDES = ("source", "target")


class TextFolder(TextBuilder, skip_registration=True):
    """The texts in a folder or file, prepared under a digest of its path and of its files' names, sizes and times.

    So files that changed are another data set, which is prepared when it is used next.
    """

    def __init__(self, root: Path, files: Mapping[str, Path], **kwargs):
        self._files = files
        self.fields = _fields(files["train"])
        super().__init__(**kwargs)

    @classmethod
    def of(cls, path: str, data_dir: Path) -> "TextFolder":
        """The builder of the folder or file `path`. Raises ValueError where there is no train file."""
        root = Path(path).expanduser().resolve()
        files = _find(root)
        if "train" not in files:
            raise ValueError(f"data set 'folder:{path}' has no train file, only {', '.join(map(str, files.values()))}")
        digest = hashlib.sha256(str(root).encode())
        for split, file in files.items():
            for part in _parts(file):
                if not part.is_file():
                    raise ValueError(f"{part} does not exist")
                digest.update(f"{split} {part.name} {part.stat().st_size} {part.stat().st_mtime_ns}\n".encode())
        config = tfds.core.BuilderConfig(name=digest.hexdigest()[:16], description=f"The texts in {root}.")
        return cls(root, files, config=config, data_dir=data_dir, file_format="array_record")

    def examples(self, folder: Path):
        """See TextBuilder. Raises ValueError for what the files may not hold, see text_files."""
        return {split: list(_read(file, self.fields)) for split, file in self._files.items()}


def holds_texts(path: str) -> bool:
    """Whether the folder or file `path` holds files of texts."""
    return bool(_find(Path(path).expanduser()))


def _find(root: Path) -> dict[str, Path]:
    """Split -> its file. Raises ValueError for two files of one split."""
    if root.is_file():
        return {"train": root}
    files: dict[str, Path] = {}
    for stem, split in SPLIT_FILES.items():
        for file in sorted(root.glob(f"{stem}.*")):
            if _kind(file) not in KINDS:
                continue
            if split in files:
                raise ValueError(f"{files[split]} and {file} are both the {split} split; keep one")
            files[split] = file
    return files


def _kind(file: Path) -> str:
    return file.name.removesuffix(".gz").rpartition(".")[2]


def _parts(file: Path) -> list[Path]:
    """A file, or the two that belong together."""
    if _kind(file) != "source":
        return [file]
    return [file, file.with_name(".target".join(file.name.rsplit(".source", 1)))]


def _fields(file: Path) -> dict[str, Any]:
    """The fields of a file's examples; for JSONL those of its first line."""
    if _kind(file) != "jsonl":
        return dict.fromkeys(SIDES, TEXT)
    _, first = next(text_files.jsonl(file))
    kinds = {key: TEXTS if isinstance(value, list) else TEXT for key, value in first.items()}
    return kinds | {templates.REFERENCES: TEXTS} if templates.REFERENCES in kinds else kinds


def _read(file: Path, fields: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    if _kind(file) == "tsv":
        yield from (dict(zip(SIDES, row, strict=True)) for row in text_files.tsv(file, len(SIDES)))
    elif _kind(file) == "source":
        yield from (dict(zip(SIDES, row, strict=True)) for row in text_files.parallel(_parts(file)))
    elif _kind(file) == "jsonl":
        for number, example in text_files.jsonl(file):
            if example.keys() != fields.keys():
                raise ValueError(f"{file}, line {number} has the keys {', '.join(example)}, not {', '.join(fields)}")
            for key, value in example.items():
                _check(value, fields[key] is TEXTS, f"{file}, line {number}: {key!r}")
            yield example
    else:
        raise ValueError(f"{file} is neither .tsv nor .jsonl")


def _check(value: Any, several: bool, what: str) -> None:
    texts = value if several else [value]
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{what} is {value!r}; it must be a {'list of strings' if several else 'string'}")
    if not all(text.strip() for text in texts):
        raise ValueError(f"{what} is empty")
