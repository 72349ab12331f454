"""The texts of a prepared data set as token ids on disk, made once per template and vocabulary.

They lie in a folder beside the records: the vocabulary, and per split and side one file of ids, the examples one after
the other, and one of the positions where they end. So lengths are known without reading an example, and any example
is found at once. Every source and every target ends in EOS, as T5's do.
"""

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
from typing import Any

import numpy as np

from research.data import integrity, prepare, sources
from research.data.spec import DataSpec
from research.data.text import packing, templates, tokenizer
from research.data.text import vocabulary as vocabulary_lib
from research.data.text.sentences import Splitter
from research.measure import progress
from research.spec import Role, checks, field

SIDES = ("source", "target")
CHUNK = 4096  # examples that are tokenised at a time
TRAINING_BYTES = 100_000_000  # of the training split, evenly spread over it, teach the vocabulary
LAYOUT = "3"  # part of the folder's name, changed whenever the files would be others


MOST_TOKENS = 10_000_000


class TokensSpec(DataSpec):
    """What data sets whose targets are tokens have in common."""

    vocabulary: str = field(
        default="", doc="a sentencepiece .model, a tokenizer.json, their folder or package:NAME; empty: one is trained"
    )
    vocab_type: str = field(
        default="unigram", check=checks.one_of(*vocabulary_lib.TYPES), doc="of a vocabulary that is trained"
    )
    target_length: int = field(
        default=128, check=checks.at_least(2) & checks.at_most(MOST_TOKENS), doc="tokens of a row, EOS included"
    )
    eval_buckets: int = field(
        default=3, role=Role.RUNTIME, check=checks.at_least(1) & checks.at_most(100),
        doc="shapes of evaluation batches, from the lengths of a row down by halves",
    )  # fmt: skip


# What a vocabulary may hold: its size, and the share of the characters that get a token of their own.
VOCAB_SIZE = checks.at_least(5) & checks.at_most(MOST_TOKENS)
VOCAB_COVERAGE = checks.between(0.9, 1)


@dataclasses.dataclass(frozen=True)
class Tokens:
    """As sources.Prepared, for texts: `prepare` makes tokens of what is not yet tokenised.

    vocabulary_file   as TokensSpec.vocabulary; "": one is trained with `settings` on the training split
    classes           the targets, where they are classes: the tokens of each are then its place among them alone
    """

    raw: sources.Prepared
    template: templates.Template
    settings: vocabulary_lib.Settings
    vocabulary_file: str = ""
    classes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """As in the config."""
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
        """16 hex digits over the texts (see sources.Prepared) and the template; and the vocabulary's digest."""
        said = f"{self.raw.fingerprint} {self.template.source!r} {self.template.target!r}"
        return f"{hashlib.sha256(said.encode()).hexdigest()[:16]} vocabulary {self.vocabulary.digest}"

    @cached_property
    def vocabulary(self) -> vocabulary_lib.Vocabulary:
        """The file's, or the trained one; the latter needs no data until its tokens are asked for."""
        if self.vocabulary_file:
            settings = self.settings
            return tokenizer.open_vocabulary(self.vocabulary_file, settings.size, settings.special_tokens)
        return vocabulary_lib.Vocabulary(lambda: self.folder / "vocabulary.model", self.settings.size)

    def prepare(self) -> None:
        """Prepares the texts, see prepare.ensure, and makes the vocabulary and the tokens unless that is done.

        Raises ValueError where the data set is not prepared, and for an example that the template cannot use.
        """
        prepare.ensure(self.raw)
        folder = self._place
        if not folder.is_dir():
            with prepare.locked(folder.parent):
                if not folder.is_dir():  # by another process, meanwhile
                    self._write(folder)

    @cached_property
    def folder(self) -> Path:
        """The folder of the ids, complete. Raises ValueError where there is none, see `prepare`."""
        folder = self._place
        if not folder.is_dir():
            raise ValueError(f"the tokens of {self.name!r} are not made; train, or run: {self.raw.prepare_command}")
        integrity.verify(folder, self.raw.prepare_command, needed=True)
        return folder

    @cached_property
    def _content(self) -> dict[str, Any]:
        """What the ids depend on."""
        return {
            "layout": LAYOUT,
            "texts": self.raw.fingerprint,
            "template": [self.template.source, self.template.target],
            "vocabulary": self.vocabulary.digest if self.vocabulary_file else self.settings.described(),
            **({"classes": list(self.classes)} if self.classes else {}),
        }

    @cached_property
    def _place(self) -> Path:
        """The folder of the ids, made or not."""
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

    def lengths(self, split: str, splitter: Splitter | None = None) -> np.ndarray:
        """Tokens of each example with EOS, int64 [examples, 2]: source (with `splitter` its sentences) and target."""
        ends = [np.load(self.folder / f"{split}.{side}.ends.npy") for side in SIDES]
        lengths = np.stack([np.diff(end, prepend=0) for end in ends], axis=1)
        if splitter:
            examples = Examples(self.folder, split)
            lengths[:, 0] = [splitter.count(examples.whole(index)[0]) for index in range(len(examples))]
        return lengths

    def examples(
        self, split: str, limits: tuple[int, int], keep_end: bool, splitter: Splitter | None = None
    ) -> "Examples":
        """The token arrays of a split, cut to `limits` with EOS kept; of sources the end stays if `keep_end`."""
        return Examples(self.folder, split, limits, keep_end, splitter)

    @cached_property
    def _records(self):
        return {split: self.raw.source(split) for split in sources.SPLITS}

    def _texts(self, split: str, step: int = 1, doing: str = "") -> Iterator[tuple[str, str]]:
        """Source and target of every `step`th example. Raises ValueError for a source that is empty."""
        indices = range(0, self.counts[split], step)
        for index in progress.over(indices, f"{self.name} {split}{doing}", "examples"):
            source, target = self.template.texts(self.fields(split, index))
            if not source.strip():
                raise ValueError(
                    f"{self.name}: the source {self.template.source!r} of example {index} of {split} is empty"
                )
            yield source, target

    def _write(self, folder: Path) -> None:
        for leftover in folder.parent.glob("incomplete.*"):
            shutil.rmtree(leftover)
        unfinished = folder.parent / f"incomplete.{folder.name}"
        unfinished.mkdir()
        model = unfinished / "vocabulary.model"
        if self.vocabulary_file:
            words = self.vocabulary
            model.write_bytes(words.serialized)
        else:
            model.write_bytes(vocabulary_lib.train(self._training_texts(), self.settings))
            words = vocabulary_lib.Vocabulary(lambda: model, self.settings.size)
        for split in sources.SPLITS:
            self._tokenise(split, words, unfinished)
        about = {"vocabulary_digest": words.digest, "vocabulary_tokens": words.pieces, "counts": self.counts}
        about |= self._content
        (unfinished / "about.json").write_text(json.dumps(about, indent=1, ensure_ascii=False))
        integrity.write(unfinished)
        unfinished.rename(folder)

    def _training_texts(self) -> Iterator[str]:
        step = -(-self._text_bytes() // TRAINING_BYTES)
        for texts in self._texts("train", step, doing=" for the vocabulary"):
            yield from texts

    def _text_bytes(self) -> int:
        """How large the texts of the training split are, about."""
        return self.raw.size_bytes("train")

    def _tokenise(self, split: str, words: vocabulary_lib.Vocabulary, folder: Path) -> None:
        files = [(folder / f"{split}.{side}.ids").open("wb") for side in SIDES]
        lengths: tuple[list, list] = ([], [])
        texts = self._texts(split, doing=" to tokens")
        for _ in range(0, self.counts[split], CHUNK):
            chunk = zip(*itertools.islice(texts, CHUNK), strict=True)
            for side, file, length in zip(chunk, files, lengths, strict=True):
                is_class = file is files[1] and self.classes
                for ids in self._numbers(side, split) if is_class else words.encode_many(side):
                    whole = ids if is_class else [*ids, words.eos]
                    file.write(np.array(whole, _dtype(words.size)).tobytes())
                    length.append(len(whole))
        for side, file, length in zip(SIDES, files, lengths, strict=True):
            file.close()
            np.save(folder / f"{split}.{side}.ends.npy", np.cumsum(length))
        if not self.classes:
            self._report_empty(split, lengths[1])

    def _numbers(self, targets: Sequence[str], split: str) -> list[list[int]]:
        """The place of each target among the classes. Raises ValueError for one that is none of them."""
        if unknown := next((target for target in targets if target not in self.classes), None):
            raise ValueError(
                f"{self.name}: the {split} target {unknown!r} is none of config.task.classes={self.classes!r}"
            )
        return [[self.classes.index(target)] for target in targets]

    def _report_empty(self, split: str, lengths: Sequence[int]) -> None:
        """Says how many targets are EOS alone, as where nothing answers a question. Raises ValueError if all are."""
        empty = sum(length == 1 for length in lengths)
        if not empty:
            return
        line = f"{self.name}: {empty:,} of {len(lengths):,} {split} targets {self.template.target!r} are empty"
        if empty == len(lengths):
            raise ValueError(f"{line}; there is nothing to learn")
        progress.say(line)


class Examples(Sequence[packing.Example]):
    """`examples[i]`: source and target ids of example i. Every process maps the files for itself."""

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
    """`ids`, or sentences of them, with at most `limit` of them.

    The last one, which is or holds EOS, always stays; of the others the first or the last.
    """
    if len(ids) <= limit:
        return ids
    return ids[-limit:] if keep_end else np.concatenate([ids[: limit - 1], ids[-1:]])


def _dtype(size: int) -> str:
    return "<u2" if size <= 2**16 else "<u4"
