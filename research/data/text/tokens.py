"""The texts of a prepared data set as token ids on disk, made once per template and vocabulary.

A folder beside the records holds the vocabulary and, per split and side, one file of concatenated ids and one of the
offsets where examples end. Lengths are thus known without reading an example, and access is random. Every source and
target ends in EOS, as in T5.
"""

import contextlib
import dataclasses
import hashlib
import itertools
import json
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from research.data import integrity, prepare, sources
from research.data.spec import DataSpec
from research.data.text import packing, templates, tokenizer
from research.data.text import vocabulary as vocabulary_lib
from research.data.text.sentences import Splitter
from research.measure import progress
from research.spec import Role, checks, field

SIDES = ("source", "target")
CHUNK = 4096  # examples tokenised at a time
TRAINING_BYTES = 100_000_000  # of texts to train the vocabulary on, evenly spaced in train
LAYOUT = "3"  # the version of the file format, part of the folder's name


MOST_TOKENS = 10_000_000


class TokensSpec(DataSpec):
    """The fields shared by the specs of data sets with token targets."""

    vocabulary: str = field(
        default="", doc="a sentencepiece .model or tokenizer.json, their folder or package:NAME; empty: train one"
    )
    vocab_type: str = field(
        default="unigram", check=checks.one_of(*vocabulary_lib.TYPES), doc="algorithm of a trained vocabulary"
    )
    target_length: int = field(
        default=128, check=checks.at_least(2) & checks.at_most(MOST_TOKENS), doc="target tokens of a row, with EOS"
    )
    eval_buckets: int = field(
        default=3, role=Role.RUNTIME, check=checks.at_least(1) & checks.at_most(100),
        doc="number of length buckets of evaluation batches: full row length, half, quarter, ...",
    )  # fmt: skip


# Limits of vocabulary size and character coverage.
VOCAB_SIZE = checks.at_least(5) & checks.at_most(MOST_TOKENS)
VOCAB_COVERAGE = checks.between(0.9, 1)


@dataclasses.dataclass(frozen=True)
class Tokens:
    """The counterpart of sources.Prepared for texts: `prepare` also tokenises them.

    Attributes:
        raw: The prepared texts.
        template: How source and target are made of the fields.
        settings: Settings of a vocabulary that is trained on the training split.
        vocabulary_file: The vocabulary to use instead, as in TokensSpec.vocabulary; "": none.
        classes: The targets if they are classes: a target is then stored as its index in `classes`.
    """

    raw: sources.Prepared
    template: templates.Template
    settings: vocabulary_lib.Settings
    vocabulary_file: str = ""
    classes: tuple[str, ...] = ()

    layout: ClassVar[str] = LAYOUT

    @property
    def name(self) -> str:
        """The name, as in the config."""
        return self.raw.name

    @property
    def version(self) -> str:
        """The version of the builder that prepares the texts."""
        return self.raw.version

    @property
    def counts(self) -> dict[str, int]:
        """Examples in train, validation and test."""
        return self.raw.counts

    @cached_property
    def fingerprint(self) -> str:
        """A hash (16 hex digits) of the texts (see sources.Prepared) and the template; and the vocabulary's digest."""
        content = f"{self.raw.fingerprint} {self.template.source!r} {self.template.target!r}"
        return f"{hashlib.sha256(content.encode()).hexdigest()[:16]} vocabulary {self.vocabulary.digest}"

    @cached_property
    def vocabulary(self) -> vocabulary_lib.Vocabulary:
        """The given or the trained vocabulary; the latter is read when first used."""
        if self.vocabulary_file:
            settings = self.settings
            return tokenizer.open_vocabulary(self.vocabulary_file, settings.size, settings.special_tokens)
        return vocabulary_lib.Vocabulary(lambda: self.folder / "vocabulary.model", self.settings.size)

    def prepare(self) -> None:
        """Prepares the texts, see prepare.ensure, trains the vocabulary and tokenises, unless already done.

        Raises ValueError if the data set is not prepared, and for an example that does not fit the template.
        """
        prepare.ensure(self.raw)
        folder = self._folder_path
        if not folder.is_dir():
            with prepare.locked(folder.parent):
                if not folder.is_dir():  # another process may have written it meanwhile
                    self._write(folder)

    @cached_property
    def folder(self) -> Path:
        """The folder of the token ids. Raises ValueError if it does not exist, see `prepare`."""
        folder = self._folder_path
        if not folder.is_dir():
            raise ValueError(f"{self.name!r} is not tokenised; start a training, or run: {self.raw.prepare_command}")
        integrity.verify(folder, self.raw.prepare_command, needed=True)
        return folder

    @cached_property
    def _content(self) -> dict[str, Any]:
        """Everything that the token ids depend on."""
        return {
            "layout": self.layout,
            "texts": self.raw.fingerprint,
            "template": [self.template.source, self.template.target],
            "vocabulary": self.vocabulary.digest if self.vocabulary_file else self.settings.described(),
            **({"classes": list(self.classes)} if self.classes else {}),
        }

    @cached_property
    def _folder_path(self) -> Path:
        """The path of the folder of the token ids, which need not exist."""
        digest = hashlib.sha256(json.dumps(self._content, sort_keys=True).encode()).hexdigest()[:8]
        kind = f"{self.settings.type}-{self.settings.size}"
        if self.vocabulary_file:
            is_tokenizer = isinstance(self.vocabulary, tokenizer.TokenizerVocabulary)
            kind = f"tokenizer-{self.vocabulary.digest}" if is_tokenizer else "given"
        return self.raw.folder / "tokens" / f"{kind}-{digest}"

    def fields(self, split: str, index: int) -> dict[str, Any]:
        """The raw fields of an example, as strings, numbers and lists of them."""
        features = self.raw.builder.info.features
        example = self._records[split][index]
        return {key: templates.plain(value, features[key]) for key, value in example.items()}

    def reference(self, split: str, index: int) -> dict[str, Any]:
        """The fields of an example, and its `source`, `target` and `references`: the accepted texts."""
        fields = self.fields(split, index)
        source, target = self.template.texts(fields)
        return {**fields, "source": source, "target": target, "references": self.template.accepted(fields)}

    def lengths(self, split: str, splitter: Splitter | None = None) -> np.ndarray:
        """The numbers of tokens, with EOS, int64 [examples, 2]: source (with `splitter`, sentences) and target."""
        ends = [np.load(self.folder / f"{split}.{side}.ends.npy") for side in SIDES]
        lengths = np.stack([np.diff(end, prepend=0) for end in ends], axis=1)
        if splitter:
            examples = Examples(self.folder, split)
            lengths[:, 0] = [splitter.count(examples.whole(index)[0]) for index in range(len(examples))]
        return lengths

    def examples(
        self, split: str, limits: tuple[int, int], keep_end: bool, splitter: Splitter | None = None
    ) -> "Examples":
        """The token arrays of a split, truncated to `limits` with EOS kept; `keep_end` keeps the end of sources."""
        return Examples(self.folder, split, limits, keep_end, splitter)

    @cached_property
    def _records(self):
        return {split: self.raw.source(split) for split in sources.SPLITS}

    def _texts(self, split: str, step: int = 1, doing: str = "") -> Iterator[tuple[str, str]]:
        """Source and target of every `step`th example. Raises ValueError for an empty source."""
        indices = range(0, self.counts[split], step)
        for index in progress.over(indices, f"{self.name} {split}{doing}", "examples"):
            source, target = self.template.texts(self.fields(split, index))
            if not source.strip():
                raise ValueError(
                    f"{self.name}: the source {self.template.source!r} of example {index} of {split} is empty; fill it "
                    "or remove the example"
                )
            yield source, target

    def _write(self, folder: Path) -> None:
        for leftover in folder.parent.glob("incomplete.*"):
            shutil.rmtree(leftover)
        unfinished = folder.parent / f"incomplete.{folder.name}"
        unfinished.mkdir()
        model = unfinished / "vocabulary.model"
        if self.vocabulary_file:
            vocabulary = self.vocabulary
            model.write_bytes(vocabulary.serialized)
        else:
            model.write_bytes(vocabulary_lib.train(self._training_texts(), self.settings))
            vocabulary = vocabulary_lib.Vocabulary(lambda: model, self.settings.size)
        for split in sources.SPLITS:
            self._tokenise(split, vocabulary, unfinished)
        about = {"vocabulary_digest": vocabulary.digest, "vocabulary_tokens": vocabulary.pieces, "counts": self.counts}
        about |= self._content
        (unfinished / "about.json").write_text(json.dumps(about, indent=1, ensure_ascii=False))
        integrity.write(unfinished)
        unfinished.rename(folder)

    def _training_texts(self) -> Iterator[str]:
        step = -(-self._text_bytes() // TRAINING_BYTES)
        for texts in self._texts("train", step, doing=" for the vocabulary"):
            yield from texts

    def _text_bytes(self) -> int:
        """The approximate size of the training texts."""
        return self.raw.size_bytes("train")

    def _tokenise(self, split: str, vocabulary: vocabulary_lib.Vocabulary, folder: Path) -> None:
        encode_texts = lambda texts: [[*ids, vocabulary.eos] for ids in vocabulary.encode_many(texts)]
        encode_targets = (lambda targets: self._numbers(targets, split)) if self.classes else encode_texts
        lengths: tuple[list, list] = ([], [])
        texts = self._texts(split, doing=" to tokens")
        with contextlib.ExitStack() as stack:
            files = [stack.enter_context((folder / f"{split}.{side}.ids").open("wb")) for side in SIDES]
            for _ in range(0, self.counts[split], CHUNK):
                chunk = zip(*itertools.islice(texts, CHUNK), strict=True)
                for side, file, length, encode in zip(
                    chunk, files, lengths, (encode_texts, encode_targets), strict=True
                ):
                    for ids in encode(side):
                        file.write(np.array(ids, id_dtype(vocabulary.size)).tobytes())
                        length.append(len(ids))
        self._write_ends(split, folder, lengths)
        if not self.classes:
            self._report_empty(split, lengths[1])

    def _write_ends(self, split: str, folder: Path, lengths: Sequence[Sequence[int]]) -> None:
        """Writes the end offset of each example, given the numbers of tokens of the sides."""
        for side, length in zip(SIDES, lengths, strict=True):
            np.save(folder / f"{split}.{side}.ends.npy", np.cumsum(length))

    def _numbers(self, targets: Sequence[str], split: str) -> list[list[int]]:
        """The index of each target in `classes`. Raises ValueError for an unknown one."""
        if unknown := next((target for target in targets if target not in self.classes), None):
            raise ValueError(
                f"{self.name}: the {split} target {unknown!r} is not in config.task.classes={self.classes!r}; add it"
            )
        return [[self.classes.index(target)] for target in targets]

    def _report_empty(self, split: str, lengths: Sequence[int]) -> None:
        """Logs the number of empty targets, such as those of unanswerable questions. Raises ValueError if all are."""
        empty = sum(length == 1 for length in lengths)
        if not empty:
            return
        line = f"{self.name}: {empty:,} of {len(lengths):,} {split} targets {self.template.target!r} are empty"
        if empty == len(lengths):
            raise ValueError(f"{line}; at least one must not be, check config.data.target")
        progress.say(line)


class Examples(Sequence[packing.Example]):
    """Source and target ids of each example, from memory-mapped files, which every process opens for itself."""

    def __init__(
        self,
        folder: Path,
        split: str,
        limits: tuple[int, int] = (sys.maxsize, sys.maxsize),
        keep_end: bool = False,
        splitter: Splitter | None = None,
    ):
        self._folder, self._split, self._limits, self._keep_end = folder, split, limits, keep_end
        self._splitter = splitter

    @cached_property
    def _sides(self):
        sides = []
        for side in SIDES:
            ends = np.load(self._folder / f"{self._split}.{side}.ends.npy")
            path = self._folder / f"{self._split}.{side}.ids"
            dtype = f"<u{os.path.getsize(path) // int(ends[-1])}"
            sides.append((np.memmap(path, dtype, "r"), ends))
        return sides

    def __len__(self) -> int:
        return len(self._sides[0][1])

    def __getitem__(self, index: int) -> packing.Example:  # pyright: ignore[reportIncompatibleMethodOverride]  no slices
        source, target = self.whole(index)
        if self._splitter:
            source = self._splitter(source)
        return cut(source, self._limits[0], self._keep_end), cut(target, self._limits[1])

    def whole(self, index: int) -> packing.Example:
        """All ids of example `index`."""
        source, target = (ids[ends[index - 1] if index else 0 : ends[index]] for ids, ends in self._sides)
        return source, target

    def __getstate__(self):
        return {key: value for key, value in self.__dict__.items() if key != "_sides"}


def cut(ids: np.ndarray, limit: int, keep_end: bool = False) -> np.ndarray:
    """Truncates token ids, or sentences of them, to `limit`.

    The last item, with EOS, is always kept; of the others, the first ones are kept or, with `keep_end`, the last.
    """
    if len(ids) <= limit:
        return ids
    return ids[-limit:] if keep_end else np.concatenate([ids[: limit - 1], ids[-1:]])


def id_dtype(size: int) -> str:
    """The dtype in which token ids below `size` are stored."""
    return "<u2" if size <= 2**16 else "<u4"
