"""`load(spec)`: pairs of source and target text as batches of token ids that are a function of (seed, step)."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from research.data import pipeline, recorded, sources
from research.data.text import packing, sentences, templates, token_data, tokens
from research.data.text import vocabulary as vocabulary_lib
from research.data.text.builders import text_folder
from research.measure import progress
from research.spec import Role, checks, field
from research.spec.contracts import Batches

TokensT = TypeVar("TokensT", bound=tokens.Tokens)


class TextSpec(tokens.TokensSpec, tag="text"):
    """Pairs of texts, and their conversion to rows of tokens."""

    source: str = field(
        default="", check=templates.FORMAT,
        doc="model input: a format string over the fields of the data set; empty: the default for the data set",
    )  # fmt: skip
    target: str = field(default="", check=templates.FORMAT, doc="model output: as source")
    vocab_size: int = field(
        default=8000, check=tokens.VOCAB_SIZE, doc="size of the vocabulary and rows of the embedding"
    )
    vocab_coverage: float = field(
        default=0.9995, check=tokens.VOCAB_COVERAGE, doc="share of the characters covered by the vocabulary"
    )
    byte_fallback: bool = field(default=True, doc="encode other characters as bytes (256 tokens) instead of unk")
    split_cjk: bool = field(default=True, doc="make each Chinese or Japanese character a token")
    special_tokens: tuple[str, ...] = field(default=(), doc="strings that are always one token")
    fold_case: bool = field(default=False, doc="normalise text by NFKC and lower-case it")
    source_length: int = field(
        default=128, check=checks.at_least(2) & checks.at_most(tokens.MOST_TOKENS),
        doc="source tokens of a row, with EOS; with sentence_length: sentences",
    )  # fmt: skip
    sentence_length: int = field(
        default=0, check=checks.at_least(0) & checks.at_most(tokens.MOST_TOKENS),
        doc="one encoder position per sentence of at most this many tokens; 0: one per token",
    )  # fmt: skip
    truncate: bool = field(
        default=False, role=Role.INFERENCE, doc="truncate longer examples instead of raising an error"
    )
    truncate_source: str = field(
        default="end", role=Role.INFERENCE, check=checks.one_of("start", "end"),
        doc="the end of sources that is truncated",
    )  # fmt: skip
    pack: bool = field(default=True, doc="pack several short training examples into one row")


@dataclasses.dataclass(frozen=True)
class Text(token_data.TokenDataset):
    """Pairs of texts. A batch holds, beside `index` and `weight`, int32 [batch, length]:

    source, target                      token ids, each example ending in EOS; 0: padding. With `sentence_length` (see
                                        sentences.py), `source` is [batch, sentences, sentence_length]
    source_segments, target_segments    1, 2, ... for the examples of the row; 0: padding
    source_positions, target_positions  position within the example

    In training `index` counts rows, in evaluation it is the index of the example in its split. If the targets are
    classes, each is a single id, its class, and `target_segments` gives its example in the row.
    """

    train_transform: packing.PackedToArrays
    eval_transform: packing.PackedToArrays
    spec: TextSpec

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes; empty if the targets are texts."""
        return self.prepared.classes

    def record(self, folder: Path) -> None:
        """As in PreparedDataset, with the vocabulary and, if there are few, the distinct targets."""
        try:
            targets = self.distinct_targets()
        except ValueError:
            targets = None
        description = recorded.describe(self.prepared.raw.builder) | {"targets": targets}
        recorded.write(folder, description, self.vocabulary.serialized)

    @property
    def counts(self) -> dict[str, int]:
        """Number of examples by split, before packing.

        Raises ValueError if the data are not prepared, or if an example is too long.
        """
        self._lengths  # noqa: B018  Raises.
        return self.prepared.counts

    @cached_property
    def _limits(self):
        return self.spec.source_length, self.spec.target_length

    @cached_property
    def _lengths(self) -> dict[str, np.ndarray]:
        """Split -> the numbers of tokens of each example [examples, 2], truncated; truncation is logged or an error."""
        lengths = {split: self.prepared.lengths(split, self._splitter) for split in sources.SPLITS}
        for side, limit in enumerate(self._limits):
            for split in sources.SPLITS:
                self._check(lengths[split][:, side], f"{tokens.SIDES[side]}_length", limit, split)
        return {split: np.minimum(of_split, self._limits) for split, of_split in lengths.items()}

    def _check(self, lengths, field, limit, split):
        long = int((lengths > limit).sum())
        if not long:
            return
        unit = "sentences" if self.spec.sentence_length and field == "source_length" else "tokens"
        line = f"{self.name}: {long:,} of {len(lengths):,} {split} examples are longer than {field}={limit} {unit}"
        if not self.spec.truncate:
            longest = f"the longest has {lengths.max():,}"
            # For prediction the length is fixed by the trained model.
            longer = "shorten them" if split == "given" else f"raise config.data.{field}"
            raise ValueError(f"{line}, {longest}; {longer} or set config.data.truncate=True")
        progress.say(f"{line} and are truncated")

    @property
    def mixes_examples(self) -> str:
        """See PreparedDataset."""
        return "config.data.pack=True" if self.spec.pack else ""

    @cached_property
    def rows(self) -> list[np.ndarray]:
        """The indices of the training examples of each row; logs the share of padding."""
        lengths = self._lengths["train"]
        rows = packing.first_fit(lengths, self._limits) if self.spec.pack else list(np.arange(len(lengths))[:, None])
        share = packing.padding_share(lengths, len(rows), self._limits)
        line = f"{self.name}: {len(lengths):,} training examples in {len(rows):,} rows, {share:.1%} padding"
        progress.say(line)
        return rows

    def source(self, split: str) -> packing.Packed:
        """The rows of a split, each a list of (source, target) token arrays; only training rows have more than one."""
        rows = self.rows if split == "train" else np.arange(len(self._lengths[split]))[:, None]
        return packing.Packed(self._examples(split), rows)

    def _examples(self, split):
        return self.prepared.examples(split, self._limits, self.spec.truncate_source == "start", self._splitter)

    @cached_property
    def _splitter(self) -> sentences.Splitter | None:
        """Splits the tokens of a source into sentences; None if it is encoded by tokens."""
        if not self.spec.sentence_length:
            return None
        return sentences.Splitter(self.vocabulary.ids_ending_in(sentences.ENDS), self.spec.sentence_length)

    def eval_batches(self, split: str, batch_size: int, rows: slice | Sequence[int] | None = None) -> Batches:
        """Yields rows `rows` (None: all) of batches that hold each example of a split once, one per row, by length.

        The shape of a batch is that of its bucket, see packing.buckets. It depends on the length of the targets, so a
        decoder must not take its length limit from it. Padding has weight 0 and index -1.
        """
        examples = self._examples(split)
        for shape, members in packing.buckets(self._lengths[split], self._limits, self.spec.eval_buckets):
            source, transform = packing.Packed(examples, members[:, None]), packing.PackedToArrays(*shape)
            for batch in pipeline.eval_batches(source, transform, batch_size, rows, self.workers, self.prefetch):
                position = batch["index"]
                index = np.where(position < 0, -1, members[position]).astype(np.int32)
                yield {**batch, "index": index}

    def reference(self, split: str, index: int) -> dict[str, Any]:
        """See Tokens.reference."""
        return self.prepared.reference(split, index)

    def distinct_targets(self, most: int = 100) -> list[tuple[int, ...]]:
        """The token ids of the distinct targets of train. Raises ValueError if there are more than `most`."""
        too_many = f"{self.name} has more than {most} distinct targets, too many for classes"
        if isinstance(builder := self.prepared.raw.builder, recorded.Recorded):
            if builder.targets is None:
                raise ValueError(too_many)
            return builder.targets
        examples, found = self._examples("train"), set()
        for index in range(len(examples)):
            found.add(tuple(tokens.cut(examples.whole(index)[1], self.spec.target_length).tolist()))
            if len(found) > most:
                raise ValueError(too_many)
        return sorted(found)

    def encode(self, texts: Sequence[str]) -> pipeline.Batch:
        """A batch of sources without targets, for `predict`: weight 1, index 0.

        Args:
            texts: Each holds the fields of the source template, separated by tabs (question, tab, context).

        Raises:
            ValueError: A wrong number of fields, or a text that is empty or too long.
        """
        ids = list(map(self._ids, texts))
        self._check(np.array([len(each) for each in ids]), "source_length", self.spec.source_length, "given")
        cut = functools.partial(
            tokens.cut, limit=self.spec.source_length, keep_end=self.spec.truncate_source == "start"
        )
        examples = [self.eval_transform([(cut(each), np.array([], np.int32))]) for each in ids]
        batch = {name: np.stack([example[name] for example in examples]) for name in examples[0]}
        return {**batch, "index": np.zeros(len(texts), np.int32), "weight": np.ones(len(texts), np.float32)}

    def problem(self, text: str) -> ValueError | None:
        """The error that `encode` would raise for a text; None if it is valid."""
        try:
            if not self.spec.truncate:
                self._check(np.array([len(self._ids(text))]), "source_length", self.spec.source_length, "given")
            else:
                self._ids(text)
        except ValueError as error:
            return error
        return None

    def _ids(self, text: str) -> Any:
        """The token ids, or their sentences, of a text as in `encode`."""
        template = self.prepared.template
        source = template.source.format(**given_fields(template, text))
        ids = np.array([*self.vocabulary.encode(source), self.vocabulary.eos])
        return self._splitter(ids) if self._splitter else ids


def given_fields(template: templates.Template, text: str) -> dict[str, str]:
    """Splits a text at tabs into the fields of the source of `template`; with one field, it is the whole text.

    Raises ValueError for a wrong number of fields, and for an empty one.
    """
    names = template.source_fields
    parts = text.rstrip("\n").split("\t") if len(names) > 1 else [text]
    if len(parts) != len(names):
        raise ValueError(f"{text!r} has {len(parts)} fields; give {', '.join(names)}, separated by tabs")
    if not all(part.strip() for part in parts):
        raise ValueError(
            f"{text!r}: the {names[[bool(part.strip()) for part in parts].index(False)]} is empty; fill it"
        )
    return dict(zip(names, parts, strict=True))


def load(spec: TextSpec, known: recorded.Recorded | None = None, classes: tuple[str, ...] = ()) -> Text:
    """The data set that `spec` describes; nothing is prepared, and no example is read yet.

    Args:
        spec: The config of the data.
        known: As in classification.load.
        classes: The targets if they are classes; else empty.

    Raises:
        ValueError: Unknown name, template field or special token, or invalid setting.
    """
    prepared = open_tokens(spec, known, tokens.Tokens, classes)
    to_arrays = packing.PackedToArrays(spec.source_length, spec.target_length)
    return Text(prepared, to_arrays, to_arrays, spec.workers, spec.prefetch, spec)


def open_tokens(
    spec: TextSpec,
    known: recorded.Recorded | None,
    kind: Callable[..., TokensT],
    classes: tuple[str, ...] = (),
) -> TokensT:
    """Opens the tokens of a data set for `load`."""
    if not known and spec.name.startswith(sources.FOLDER):
        text_folder.check(spec.name.removeprefix(sources.FOLDER))
    builder = known or sources.open_builder(spec.name, spec.dir)
    template = templates.choose(spec.name, spec.source, spec.target)
    template.check(spec.name, builder.info.features)
    settings = vocabulary_lib.Settings(
        size=spec.vocab_size,
        type=spec.vocab_type,
        coverage=spec.vocab_coverage,
        byte_fallback=spec.byte_fallback,
        split_cjk=spec.split_cjk,
        special_tokens=spec.special_tokens,
        fold_case=spec.fold_case,
    )
    raw = sources.Prepared(
        builder,
        spec.name,
        spec.validation_fraction,
        spec.fit_on,
        group=spec.group,
        without=template.unlabelled,
        half=spec.half,
    )
    prepared = kind(raw, template, settings, known.vocabulary if known else spec.vocabulary, classes)
    if prepared.vocabulary_file:
        prepared.vocabulary  # noqa: B018  Raises if the file does not fit.
    return prepared
