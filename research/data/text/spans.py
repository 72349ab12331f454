"""`load(spec, stride)`: questions and their contexts as batches of token ids, with the spans of their answers."""

import contextlib
import dataclasses
import itertools
import sys
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from research.data import pipeline, recorded, sources
from research.data.text import dataset, packing, token_data, tokens, windows
from research.data.text.vocabulary import Vocabulary
from research.measure import progress
from research.spec.contracts import Batches

_TARGET = "<u4"  # positions in contexts may be beyond 2 bytes, whatever the vocabulary
_LEAST = 8  # tokens of a row for a question and the special ones, beside a window


@dataclasses.dataclass(frozen=True)
class SpanTokens(tokens.Tokens):
    """As Tokens, with the spans of answers as targets, see windows.Windows."""

    layout = f"{tokens.LAYOUT}, spans 1"

    def _tokenise(self, split: str, vocabulary: Vocabulary, folder: Path) -> None:
        lengths: tuple[list[int], list[int]] = ([], [])
        without = unknown = 0
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
                    without += found[0] == windows.NONE
                    unknown += found[0] == windows.UNKNOWN
                    sides = [*question.ids, *context.ids], windows.target(len(question.ids), found)
                    dtypes = tokens.id_dtype(vocabulary.size), _TARGET
                    for ids, dtype, file, length in zip(sides, dtypes, files, lengths, strict=True):
                        file.write(np.array(ids, dtype).tobytes())
                        length.append(len(ids))
        self._write_ends(split, folder, lengths)
        self._report(split, without, unknown)

    def _report(self, split: str, without: int, unknown: int) -> None:
        """Says how many answers there are not. Raises ValueError where there is none to learn from."""
        count, where = self.counts[split], f"{self.name}: {{:,}} of {self.counts[split]:,} {split} questions"
        if without:
            progress.say(f"{where.format(without)} have no answer")
        if unknown:
            then = "are left out of training" if split == "train" else "count, and cannot be answered in full"
            progress.say(f"{where.format(unknown)} have answers that are not in their context; they {then}")
        if split == "train" and without + unknown == count:
            target = self.template.target
            raise ValueError(f"{self.name}: no train target {target!r} is in its context; there is nothing to learn")


def _begin(fields: Mapping[str, Any], answer: str) -> int | None:
    """Where an answer begins in the context, as SQuAD says it of the first of several."""
    answers = fields.get("answers")
    if not isinstance(answers, Mapping) or not len(answers.get("answer_start", ())):
        return None
    return int(answers["answer_start"][0]) if answers["text"][0] == answer else None


@dataclasses.dataclass(frozen=True)
class Spans(token_data.TokenDataset):
    """Questions with windows of their contexts. A batch holds, beside `weight` and int32 `index` and `shift` [batch],

    source, source_segments, source_positions   int32 [batch, length]: tokens, as in dataset.Text; each window of a
                                                row is a segment
    source_types, source_context                int32 [batch, length], as of windows.Window
    answer                                      int32 [batch, windows, 2]: the positions in its window of the first and
                                                last token of the answer; 0, 0: it has none; -1, -1: unknown

    In training `index` counts rows. In evaluation a row is one window, and `index` is the position of its question in
    the split: all windows of a question have the same. `shift` turns positions in the first window of a row
    into those in its context.
    """

    prepared: SpanTokens  # pyright: ignore[reportIncompatibleVariableOverride]  as of the base class
    train_transform: windows.WindowsToArrays
    eval_transform: windows.WindowsToArrays
    spec: dataset.TextSpec
    stride: int

    class_names = ()

    @property
    def counts(self) -> dict[str, int]:
        """Questions in train, validation and test. Raises ValueError where one is too long."""
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
        """Reports questions that are truncated, or raises ValueError."""
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

    @cached_property
    def rows(self) -> list[np.ndarray]:
        """The indices of the training windows of each row; reports the share of padding."""
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
        """Rows `rows` (None: all) of batches that hold each window of a split once, one per row, by length.

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
        """The contexts of the texts that `encode` is given."""
        return [self._pair(text)[1] for text in texts]

    def cut(self, contexts: Sequence[str], spans: Sequence[Sequence[tuple[int, int]]]) -> list[list[str]]:
        """The texts of spans of tokens (first, last) of each context; empty for a negative one."""
        located = self.vocabulary.encode_with_offsets(contexts)
        return [
            [context[offsets[first, 0] : offsets[last, 1]].strip() if first >= 0 else "" for first, last in of_one]
            for context, (_, offsets), of_one in zip(contexts, located, spans, strict=True)
        ]

    def encode(self, texts: Sequence[str]) -> pipeline.Batch:
        """A batch of all windows of questions without answers, for `predict`: weight 1, index that of the text.

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


def load(spec: dataset.TextSpec, stride: int, known: recorded.Recorded | None = None) -> Spans:
    """As dataset.load, of questions whose answers are parts of their contexts, in windows `stride` tokens apart.

    Raises ValueError for what dataset.load refuses, for a source that is no pair, for a vocabulary that knows no pairs,
    and for a stride that leaves no room for questions.
    """
    spec = dataclasses.replace(spec, source=spec.source.replace("\\t", "\t"))  # as it may be written in a command
    prepared = dataset.open_tokens(spec, known, SpanTokens)
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
