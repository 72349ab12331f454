"""A user's own texts: PATH/{train,validation,test}.KIND, one such file of any name, or parallel files.

    tsv csv txt     columns separated by tabs, commas or semicolons: source and target, or the columns given in a
                    header, see text_tables.py
    jsonl json      objects with the same keys, one per line or in an array, or SQuAD's articles, see text_json.py;
                    `references` lists more accepted targets
    source target   PATH/train.source and PATH/train.target, one text per line
    en de ...       PATH/train.en and PATH/train.de, likewise; the fields have the names of the languages

`val`, `valid` and `dev` are `validation`; files may be gzipped (.gz). A single file is the train split.
"""

import collections
import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import tensorflow_datasets as tfds

from research.data.builders import text_files
from research.data.builders.class_folders import is_hidden
from research.data.text.builders import text_json, text_tables
from research.data.text.builders.texts import TEXT, TEXTS, TextBuilder

SPLIT_FILES = {
    "train": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
}
TABLES, JSONS = ("tsv", "csv", "txt", "tab"), ("jsonl", "json", "ndjson")
FORMS = "train.tsv or .csv (a source and a target on a line), .jsonl or .json, or train.en and train.de"
MAY_BE_EMPTY = ("target", "answer")  # "" means that there is no answer
# Language codes in file names of Moses, OPUS and FLORES: de, pt_BR, deu, deu_Latn; some suffixes are excluded.
_LANGUAGE = re.compile(
    "(?!(gz|xz|md|py|sh|js|ts|rs|cc|so)$)[a-z]{2}([_-][A-Za-z]{2,4})?|[a-z]{3}_[A-Z][a-z]{3}|"
    "eng|deu|ger|fra|fre|spa|ita|por|nld|dut|pol|ces|cze|rus|ukr|tur|ara|hin|zho|chi|jpn|kor|vie|tha"
)


class Split(NamedTuple):
    """The examples of a split, and the numbers of skipped ones by reason."""

    examples: list[dict[str, Any]]
    skipped: dict[str, int]
    left_out: tuple[str, ...] = ()  # keys whose values are not text


class TextFolder(TextBuilder, skip_registration=True):
    """The texts in a folder or file, prepared under a digest of its path and of its files' names, sizes and times.

    Changed files are therefore a new data set, which is prepared when it is next used.
    """

    VERSION = tfds.core.Version("1.1.0")  # 1.0.0 read headers as examples

    def __init__(self, root: Path, files: Mapping[str, list[Path]], **kwargs):
        self._files, self._splits = files, {}
        self._config_name = kwargs["config"].name
        stored = self._stored_fields(kwargs["data_dir"])
        # An attribute of this folder, not of the class.
        self.fields = stored or _fields(self._read("train").examples)  # pyright: ignore[reportAttributeAccessIssue]
        super().__init__(**kwargs)

    @classmethod
    def of(cls, path: str, data_dir: Path) -> "TextFolder":
        """The builder of the folder or file `path`. Raises ValueError if there is no train file."""
        root = Path(path).expanduser().resolve()
        files = _find(root)
        if "train" not in files:
            found = ", ".join(file.name for parts in files.values() for file in parts) or _listing(root)
            raise ValueError(f"data set 'folder:{path}' has no train file, only {found}; it needs {FORMS}")
        digest = hashlib.sha256(str(root).encode())
        for split, parts in files.items():
            for part in parts:
                if not part.is_file():
                    raise ValueError(f"{part} does not exist")
                digest.update(f"{split} {part.name} {part.stat().st_size} {part.stat().st_mtime_ns}\n".encode())
        config = tfds.core.BuilderConfig(name=digest.hexdigest()[:16], description=f"The texts in {root}.")
        return cls(root, files, config=config, data_dir=data_dir, file_format="array_record")

    def examples(self, folder: Path):
        """See TextBuilder. Raises ValueError for invalid content."""
        splits = {split: self._read(split) for split in self._files}
        for split, content in splits.items():
            _check_fields(content.examples, self.fields, self._files[split][0])
        return {split: content.examples for split, content in splits.items()}

    def summary(self) -> str:
        """The fields, and the numbers of skipped and repeated examples, once they are read."""
        parts = [f"fields {', '.join(self.fields)}"]
        for split, content in self._splits.items():
            counts = collections.Counter(map(repr, content.examples))
            repeated = len(content.examples) - len(counts)
            notes = [f"{count:,} {why}" for why, count in content.skipped.items() if count]
            skipped = [f"skipped {', '.join(notes)}"] if notes else []
            kept = [f"{repeated:,} repeated and kept"] if repeated else []
            keys = [f"left out the keys {', '.join(content.left_out)} (objects)"] if content.left_out else []
            if skipped or kept or keys:
                parts.append(f"{split}: {', '.join((*skipped, *kept, *keys))}")
        return "; ".join(parts)

    def _read(self, split: str) -> Split:
        if split not in self._splits:
            self._splits[split] = _read(self._files[split])
        return self._splits[split]

    def _stored_fields(self, data_dir: Path) -> dict[str, Any]:
        """The fields of a prepared data set, without reading the user's files; empty if it is not prepared."""
        folder = data_dir / self.name / self._config_name / str(self.VERSION)
        if not (folder / "dataset_info.json").is_file():
            return {}
        features: Any = tfds.features.FeaturesDict.from_config(folder)
        return dict(sorted(features.items()))


def holds_texts(path: str) -> bool:
    """Whether the folder `path` holds text files in one of the layouts above, or `path` is a file."""
    return bool(_find(Path(path).expanduser()))


def check(path: str) -> None:
    """Raises ValueError, with a listing, if the folder or file `path` holds no texts."""
    root = Path(path).expanduser()
    if not root.exists():
        raise ValueError(f"data set 'folder:{path}' does not exist; it needs {FORMS}")
    if not holds_texts(path):
        raise ValueError(f"data set 'folder:{path}' holds no texts, only {_listing(root)}; it needs {FORMS}")


def _listing(root: Path) -> str:
    names = sorted(f"{entry.name}/" if entry.is_dir() else entry.name for entry in root.iterdir())
    return ", ".join(names[:8]) + (f" and {len(names) - 8:,} more" if len(names) > 8 else "") or "nothing"


def _find(root: Path) -> dict[str, list[Path]]:
    """Split -> its file, or its parallel files. Raises ValueError for two files of one split."""
    if root.is_file():
        return {"train": [root]}
    files: dict[str, list[Path]] = {}
    for stem, split in SPLIT_FILES.items():
        present = sorted(file for file in root.glob(f"{stem}.*") if file.is_file())
        single = [[file] for file in present if _kind(file) in (*TABLES, *JSONS)]
        sides = [file for file in present if _kind(file) in text_tables.SIDES]
        languages = [file for file in present if _LANGUAGE.fullmatch(_suffix(file))]
        if sides:  # a missing counterpart is an error later
            single.append([_with_kind(sides[0], side) for side in text_tables.SIDES])
        if len(languages) > 1:
            single.append(languages)
        for parts in single:
            if split in files:
                raise ValueError(f"{files[split][0]} and {parts[0]} are both the {split} split; keep one")
            files[split] = parts
    return files or _only_file(root)


def _only_file(root: Path) -> dict[str, list[Path]]:
    """The only file of a folder, whatever its name."""
    entries = [entry for entry in root.iterdir() if not is_hidden(entry.relative_to(root))] if root.is_dir() else []
    data = [entry for entry in entries if entry.is_file() and _kind(entry) in (*TABLES, *JSONS)]
    return {"train": data} if len(data) == len(entries) == 1 else {}


def _suffix(file: Path) -> str:
    return file.name.removesuffix(".gz").rpartition(".")[2]


def _kind(file: Path) -> str:
    return _suffix(file).lower()


def _with_kind(file: Path, kind: str) -> Path:
    return file.with_name(f".{kind}".join(file.name.rsplit(f".{_suffix(file)}", 1)))


def _read(parts: Sequence[Path]) -> Split:
    """The examples in one file, or in parallel files."""
    path = parts[0]
    content = [text_files.text(part) for part in parts]
    if len(parts) > 1:
        split = _chosen(_parallel(parts, content), 0, (), path)
    elif _kind(path) in JSONS:
        records, blank = text_json.records(content[0], path)
        texts = [(where, text_json.texts(record)) for where, record in records]
        keys = dict.fromkeys(key for _, record in records for key in record)
        kept = {key for _, record in texts for key in record}
        split = _chosen(texts, blank, MAY_BE_EMPTY, path)._replace(
            left_out=tuple(key for key in keys if key not in kept)
        )
    elif _kind(path) in TABLES:
        table = text_tables.parse(content[0], path)
        rows = [(f"{path}, line {number}", dict(zip(table.names, row, strict=True))) for number, row in table.rows]
        split = _chosen(rows, table.blank, ("answer",), path)
    else:
        raise ValueError(f"{path} is none of .{', .'.join((*TABLES, *JSONS))}; texts are {FORMS}")
    return split


def _parallel(parts: Sequence[Path], content: Sequence[str]) -> list[tuple[str, dict[str, str]]]:
    columns = [text.removesuffix("\n").split("\n") for text in content]
    for path, column in zip(parts, columns, strict=True):
        if len(column) != len(columns[0]):
            raise ValueError(
                f"{parts[0]} has {len(columns[0]):,} lines, {path} has {len(column):,}; both need the same number of "
                "lines, each with its translation"
            )
    names = [_suffix(part) for part in parts]
    return [
        (f"{parts[0]}, line {number}", dict(zip(names, row, strict=True)))
        for number, row in enumerate(zip(*columns, strict=True), start=1)
    ]


def _chosen(rows: Sequence[tuple[str, dict]], blank: int, may_be_empty: Sequence[str], path: Path) -> Split:
    """The rows without missing or empty texts, and counts of the others. Raises ValueError if these are over half."""
    skipped = collections.Counter({"blank lines": blank})
    examples, first = [], ""
    for where, row in rows:
        why = next(filter(None, (_lack(key, value, may_be_empty) for key, value in row.items())), "")
        if why:
            skipped[why] += 1
            first = first or f"{where}: {why}"
        else:
            examples.append((where, row))
    if len(examples) < len(rows) / 2:
        raise ValueError(
            f"{path}: {len(rows) - len(examples):,} of {len(rows):,} examples lack a text; fill them, first {first}"
        )
    for where, row in examples:
        if not row:
            raise ValueError(f"{where} holds no text")
    if not examples:
        raise ValueError(f"{path} holds no examples, only headers or blank lines; add some")
    return Split([_same_keys(row, examples[0][1], where) for where, row in examples], dict(skipped))


def _lack(key: str, value: Any, may_be_empty: Sequence[str]) -> str:
    if value is None:
        return f"without {key}"
    return f"with an empty {key}" if isinstance(value, str) and not value.strip() and key not in may_be_empty else ""


def _same_keys(row: dict, first: Mapping[str, Any], where: str) -> dict:
    if row.keys() != first.keys():
        raise ValueError(f"{where} has the keys {', '.join(row)}; they must be {', '.join(first)}")
    for key, value in row.items():
        if type(value) is not type(first[key]):
            kind = (
                "list of strings"
                if isinstance(first[key], list)
                else type(first[key]).__name__.replace("str", "string")
            )
            raise ValueError(f"{where}: {key!r} is {value!r}; it must be a {kind}")
    return row


def _fields(examples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    kinds = {str: TEXT, list: TEXTS, dict: {"text": TEXTS}}
    return {key: kinds[type(value)] for key, value in sorted(examples[0].items())}


def _check_fields(examples: Sequence[Mapping[str, Any]], fields: Mapping[str, Any], path: Path) -> None:
    """Raises ValueError for a split with other fields than train."""
    if examples and examples[0].keys() != fields.keys():
        raise ValueError(f"{path} has the fields {', '.join(examples[0])}, but train has {', '.join(fields)}")
