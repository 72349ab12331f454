"""`load(spec, stride)`: questions and their contexts as batches of token ids, with the spans of their answers."""

import contextlib
import dataclasses
import functools
import itertools
import sys
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from research.data import pipeline, recorded, sources
from research.data.text import dataset, nearest_span, packing, token_data, tokens, windows
from research.data.text.vocabulary import Vocabulary
from research.measure import progress
from research.spec.contracts import Batches

_TARGET = "<u4"  # positions in contexts may exceed 2 bytes
_LEAST = 8  # tokens of a row that must be left for the question and special tokens


@dataclasses.dataclass(frozen=True)
class SpanTokens(tokens.Tokens):
    """tokens.Tokens with the spans of answers as targets, see windows.Windows.

    Attributes:
        min_f1: The minimum token F1 of a span that replaces an answer that is not in its context, see
            nearest_span.nearest; 0: no such spans.
    """

    min_f1: float = 0.0

    layout = f"{tokens.LAYOUT}, spans 1"

    @cached_property
    def _content(self) -> dict[str, Any]:
        return super()._content | ({"min_f1": self.min_f1} if self.min_f1 else {})

    def _tokenise(self, split: str, vocabulary: Vocabulary, folder: Path) -> None:
        lengths: tuple[list[int], list[int]] = ([], [])
        without = unknown = near = 0
        indices = iter(progress.over(range(self.counts[split]), f"{self.name} {split} to tokens", "examples"))
        with contextlib.ExitStack() as stack:
            files = [stack.enter_context((folder / f"{split}.{side}.ids").open("wb")) for side in tokens.SIDES]
            while chunk := list(itertools.islice(indices, tokens.CHUNK)):
                fields = [self.fields(split, index) for index in chunk]
                pairs = [self.template.pair(each) for each in fields]
                questions, contexts = map(vocabulary.encode_with_offsets, zip(*pairs, strict=True))
                for each, pair, question, context in zip(fields, pairs, questions, contexts, strict=True):
                    answer = self.template.texts(each)[1]
                    found = windows.locate(answer, pair[1], context.offsets, _begin(each, answer))
                    if found[0] == windows.UNKNOWN:
                        found = self._nearest(answer, pair[1], context.offsets)
                        near += found[0] != windows.UNKNOWN
                    without += found[0] == windows.NONE
                    unknown += found[0] == windows.UNKNOWN
                    sides = [*question.ids, *context.ids], windows.target(len(question.ids), found)
                    dtypes = tokens.id_dtype(vocabulary.size), _TARGET
                    for ids, dtype, file, length in zip(sides, dtypes, files, lengths, strict=True):
                        file.write(np.array(ids, dtype).tobytes())
                        length.append(len(ids))
        self._write_ends(split, folder, lengths)
        self._report(split, without, near, unknown)

    def _nearest(self, answer: str, context: str, offsets: np.ndarray) -> tuple[int, int]:
        """The first and last token of the span most similar to an answer that is not in its context, see `min_f1`."""
        span = nearest_span.nearest(answer, context, self.min_f1) if self.min_f1 else None
        return windows.holding(span, offsets) if span else (windows.UNKNOWN, windows.UNKNOWN)

    def _report(self, split: str, without: int, near: int, unknown: int) -> None:
        """Logs the number of questions without an answer. Raises ValueError if no training question has one."""
        count, where = self.counts[split], f"{self.name}: {{:,}} of {self.counts[split]:,} {split} questions"
        if without:
            progress.say(f"{where.format(without)} have no answer")
        if near:
            then = f"their targets are the spans with the highest token F1, at least {self.min_f1:g}"
            progress.say(f"{where.format(near)} have answers worded differently from their context; {then}")
        if unknown:
            then = "are skipped in training" if split == "train" else "are scored, but cannot be predicted exactly"
            progress.say(f"{where.format(unknown)} have answers that are not in their context; they {then}")
        if split == "train" and without + unknown == count:
            target = self.template.target
            raise ValueError(f"{self.name}: no train target {target!r} is in its context; there is nothing to learn")


def _begin(fields: Mapping[str, Any], answer: str) -> int | None:
    """The offset of an answer in its context (SQuAD's `answer_start` of the first answer); None if unknown."""
    answers = fields.get("answers")
    if not isinstance(answers, Mapping) or not len(answers.get("answer_start", ())):
        return None
    return int(answers["answer_start"][0]) if answers["text"][0] == answer else None


@dataclasses.dataclass(frozen=True)
class Spans(token_data.TokenDataset):
    """Questions with windows of their contexts. A batch holds, beside `weight` and int32 `index` and `shift` [batch]:

    source, source_segments, source_positions   int32 [batch, length]: tokens, as in dataset.Text; each window of a
                                                row is a segment
    source_types, source_context                int32 [batch, length]: as in windows.Window
    answer                                      int32 [batch, windows, 2]: the positions in its window of the first and
                                                last token of the answer; 0, 0: it has none; -1, -1: unknown

    In training `index` counts rows. In evaluation a row is one window, and `index` is that of its question in the
    split, the same for all windows of a question. Added to a position in the first window of a row, `shift` gives the
    position in its context.
    """

    prepared: SpanTokens  # pyright: ignore[reportIncompatibleVariableOverride]  as of the base class
    train_transform: windows.WindowsToArrays
    eval_transform: windows.WindowsToArrays
    spec: dataset.TextSpec
    stride: int

    class_names = ()

    @property
    def counts(self) -> dict[str, int]:
        """Number of questions by split. Raises ValueError if one is too long."""
        self._windows  # noqa: B018  Raises.
        return self.prepared.counts

    @cached_property
    def layout(self) -> windows.Layout:
        """How questions and contexts become rows."""
        keep_end = self.spec.truncate_source == "start"
        return windows.Layout(*self.vocabulary.pair_tokens, self.spec.source_length, self.stride, keep_end)

    @cached_property
    def _windows(self) -> dict[str, windows.Windows]:
        found = {}
        for split in sources.SPLITS:
            examples = self.prepared.examples(split, (sys.maxsize, sys.maxsize), False)
            found[split] = windows.Windows(examples, self.layout, only_known=split == "train")
            self._check(found[split], split)
        return found

    def _check(self, found: windows.Windows, split: str) -> None:
        """Logs the number of truncated questions; raises ValueError unless `truncate` is set."""
        long = int((self.layout.kept(found.questions, found.contexts) < found.questions).sum())
        if not long:
            return
        line = (
            f"{self.name}: {long:,} of {len(found.questions):,} {split} questions leave less than "
            f"config.task.doc_stride={self.stride} of source_length={self.spec.source_length} tokens to their contexts"
        )
        if not self.spec.truncate:
            longer = "shorten them" if split == "given" else "raise config.data.source_length"
            raise ValueError(f"{line}; {longer}, lower config.task.doc_stride or set config.data.truncate=True")
        progress.say(f"{line} and are truncated")

    @property
    def mixes_examples(self) -> str:
        """See PreparedDataset."""
        return "config.data.pack=True" if self.spec.pack else ""

    @cached_property
    def rows(self) -> list[np.ndarray]:
        """The indices of the training windows of each row; logs the share of padding."""
        found = self._windows["train"]
        lengths = np.stack([found.lengths, np.ones(len(found), int)], axis=1)
        limits = self.spec.source_length, self.spec.target_length
        rows = packing.first_fit(lengths, limits) if self.spec.pack else list(np.arange(len(lengths))[:, None])
        share = 1 - found.lengths.sum() / (len(rows) * self.spec.source_length)
        questions = f"{found.is_known.sum():,} training questions in {len(found):,} windows"
        progress.say(f"{self.name}: {questions} in {len(rows):,} rows, {share:.1%} padding")
        return rows

    def source(self, split: str) -> packing.Packed:
        """The rows of a split, each a list of windows; only training rows have more than one."""
        found = self._windows[split]
        return packing.Packed(found, self.rows if split == "train" else np.arange(len(found))[:, None])

    def eval_batches(self, split: str, batch_size: int, rows: slice | Sequence[int] | None = None) -> Batches:
        """Yields rows `rows` (None: all) of batches that hold each window of a split once, one per row, by length.

        The shape of a batch is that of its bucket, see packing.buckets. Padding has weight 0 and index -1.
        """
        found = self._windows[split]
        lengths = np.stack([found.lengths, np.ones(len(found), int)], axis=1)
        for (length, _), members in packing.buckets(lengths, (self.spec.source_length, 1), self.spec.eval_buckets):
            source, transform = packing.Packed(found, members[:, None]), windows.WindowsToArrays(length, 1)
            for batch in pipeline.eval_batches(source, transform, batch_size, rows, self.workers, self.prefetch):
                position = batch["index"]
                index = np.where(position < 0, -1, found.example[members[position]]).astype(np.int32)
                yield {**batch, "index": index}

    def reference(self, split: str, index: int) -> dict[str, Any]:
        """See Tokens.reference."""
        return self.prepared.reference(split, index)

    def contexts(self, split: str, indices: Sequence[int]) -> list[str]:
        """The contexts of examples of a split."""
        return [self.prepared.template.pair(self.prepared.fields(split, index))[1] for index in indices]

    def given_contexts(self, texts: Sequence[str]) -> list[str]:
        """The contexts in texts as passed to `encode`."""
        return [self._pair(text)[1] for text in texts]

    def cut(self, contexts: Sequence[str], spans: Sequence[Sequence[tuple[int, int]]]) -> list[list[str]]:
        """The texts of token spans (first, last) of each context; empty for a negative span."""
        located = self.vocabulary.encode_with_offsets(contexts)
        return [
            [context[offsets[first, 0] : offsets[last, 1]].strip() if first >= 0 else "" for first, last in of_one]
            for context, (_, offsets), of_one in zip(contexts, located, spans, strict=True)
        ]

    def encode(self, texts: Sequence[str]) -> pipeline.Batch:
        """A batch of all windows of questions without answers, for `predict`: weight 1, `index` of the text.

        Args:
            texts: Each holds the fields of the source template, separated by tabs (question, tab, context).

        Raises:
            ValueError: A wrong number of fields, or a question that is empty or too long.
        """
        found = self._encoded(texts)
        rows = [self.eval_transform([found[index]]) for index in range(len(found))]
        batch = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
        return {**batch, "index": found.example.astype(np.int32), "weight": np.ones(len(found), np.float32)}

    def problem(self, text: str) -> ValueError | None:
        """The error that `encode` would raise for a text; None if it is valid."""
        try:
            self._encoded([text])
        except ValueError as error:
            return error
        return None

    def _encoded(self, texts: Sequence[str]) -> windows.Windows:
        questions, contexts = zip(*map(self._pair, texts), strict=True)
        pairs = zip(*map(self.vocabulary.encode_with_offsets, (questions, contexts)), strict=True)
        unknown = windows.UNKNOWN, windows.UNKNOWN
        examples = [
            (np.array([*question.ids, *context.ids]), np.array(windows.target(len(question.ids), unknown)))
            for question, context in pairs
        ]
        found = windows.Windows(examples, self.layout)
        self._check(found, "given")
        return found

    def _pair(self, text: str) -> tuple[str, str]:
        return self.prepared.template.pair(dataset.given_fields(self.prepared.template, text))


def load(spec: dataset.TextSpec, stride: int, known: recorded.Recorded | None = None, min_f1: float = 0.0) -> Spans:
    """As dataset.load, for questions whose answers are spans of their contexts, in windows `stride` tokens apart.

    With `min_f1`, answers may be worded differently from their context, see SpanTokens.

    Raises ValueError as dataset.load does, for a source that is not a pair, for a vocabulary without special tokens for
    pairs, and for a stride that leaves no room for questions.
    """
    spec = dataclasses.replace(spec, source=spec.source.replace("\\t", "\t"))  # as it may be written in a command
    prepared = dataset.open_tokens(spec, known, functools.partial(SpanTokens, min_f1=min_f1))
    prepared.template.check_pair()
    if prepared.vocabulary_file:
        prepared.vocabulary.pair_tokens  # noqa: B018  Raises.
    most = spec.source_length - _LEAST
    if stride > most:
        raise ValueError(
            f"config.task.doc_stride={stride} leaves no room for questions in config.data.source_length="
            f"{spec.source_length}; it must be at most {most}"
        )
    train, evaluated = (windows.WindowsToArrays(spec.source_length, most) for most in (spec.target_length, 1))
    return Spans(prepared, train, evaluated, spec.workers, spec.prefetch, spec, stride)
