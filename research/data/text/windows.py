"""Questions and contexts as rows of tokens: location of answers, sliding windows over long contexts, and their arrays.

A row is [CLS] question [SEP] window [SEP]. The windows of a context begin `stride` tokens apart, as in run_squad.py of
Devlin et al., "BERT", 2019. A token in several windows is predicted in the one where it has most context.
"""

import dataclasses
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from research.data.text import packing

# Instead of the first and last token of an answer: there is no answer; it is not in the context.
NONE, UNKNOWN = -1, -2


class Window(NamedTuple):
    """A question with a part of its context.

    tokens    int32 [length]
    types     int32 [length]: 0 before the context, then 1
    context   int32 [length]: 0 outside of the context; 2 for tokens that have most context in this window, else 1
    answer    the positions of the first and last token of the answer; 0, 0: not in this window; -1, -1: unknown
    shift     added to a position in the row, it gives the position in the context
    """

    tokens: np.ndarray
    types: np.ndarray
    context: np.ndarray
    answer: tuple[int, int]
    shift: int


def locate(answer: str, context: str, offsets: np.ndarray, begin: int | None = None) -> tuple[int, int]:
    """Locates an answer in a context: the indices of its first and last token.

    Args:
        answer: The text to find; differences in white space and case are ignored.
        context: The text.
        offsets: The offsets [tokens, 2] of the tokens of the context, in characters.
        begin: The offset of the answer, if known. Otherwise the first occurrence is used, preferably one at token
            boundaries, then one with the same case.

    Returns:
        The indices; (NONE, NONE) for an empty answer, (UNKNOWN, UNKNOWN) for one that does not occur.
    """
    words = answer.split()
    if not words:
        return NONE, NONE
    if begin is not None and context[begin : begin + len(answer)] == answer:
        found = [holding((begin, begin + len(answer)), offsets)]
    else:
        pattern = r"\s+".join(map(re.escape, words))
        matches = [match.span() for flag in (re.NOFLAG, re.IGNORECASE) for match in re.finditer(pattern, context, flag)]
        exact = [span for span in matches if _bounds(holding(span, offsets), offsets) == span]
        found = [holding(span, offsets) for span in (*exact, *matches)]
    return next(((first, last) for first, last in found if first <= last), (UNKNOWN, UNKNOWN))


def holding(span: tuple[int, int], offsets: np.ndarray) -> tuple[int, int]:
    """The first token that ends after the start of a span of characters, and the last that starts before its end."""
    first = np.searchsorted(offsets[:, 1], span[0], side="right")
    return int(first), int(np.searchsorted(offsets[:, 0], span[1])) - 1


def _bounds(held: tuple[int, int], offsets: np.ndarray) -> tuple[int, int] | None:
    first, last = held
    return (int(offsets[first, 0]), int(offsets[last, 1])) if first <= last else None


@dataclasses.dataclass(frozen=True)
class Layout:
    """How questions and contexts are arranged in rows.

    before, between, after   the special tokens around question and context
    length                   tokens of a row
    stride                   tokens from the begin of a window to that of the next; a window holds at least as many
    keep_end                 whether the end of a question that is too long is kept instead of its begin
    """

    before: tuple[int, ...]
    between: tuple[int, ...]
    after: tuple[int, ...]
    length: int
    stride: int
    keep_end: bool = False

    @property
    def special(self) -> int:
        """The number of special tokens of a row."""
        return len(self.before) + len(self.between) + len(self.after)

    def kept(self, questions: np.ndarray, contexts: np.ndarray) -> np.ndarray:
        """The lengths of questions after truncation, given the lengths of questions and contexts in tokens."""
        room = self.length - self.special - questions
        short = np.where(contexts <= room, 0, np.maximum(self.stride - room, 0))
        return questions - short

    def counts(self, questions: np.ndarray, contexts: np.ndarray) -> np.ndarray:
        """The numbers of windows, given the lengths of questions and contexts in tokens."""
        room = self.length - self.special - self.kept(questions, contexts)
        return 1 + -(-np.maximum(contexts - room, 0) // self.stride)

    def window(self, question: np.ndarray, context: np.ndarray, answer: tuple[int, int], number: int) -> Window:
        """Window `number` of a question and its context, given their tokens and the result of `locate`."""
        kept = int(self.kept(np.array(len(question)), np.array(len(context))))
        question = question[len(question) - kept :] if self.keep_end else question[:kept]
        head = np.array([*self.before, *question, *self.between], np.int32)
        room, begin = self.length - self.special - kept, number * self.stride
        part = context[begin : begin + room]
        row = np.concatenate([head, part, np.array(self.after, np.int32)]).astype(np.int32)
        positions = np.arange(len(row)) - len(head)
        inside = (positions >= 0) & (positions < len(part))
        mask = np.zeros(len(row), np.int32)
        mask[inside] = 1 + most_context(len(context), room, self.stride, number)
        first, last = answer
        found = (first - begin + len(head), last - begin + len(head))
        if first == UNKNOWN:
            found = (-1, -1)
        elif first == NONE or first < begin or last >= begin + len(part):
            found = (0, 0)
        return Window(row, (positions >= 0).astype(np.int32), mask, found, begin - len(head))


def most_context(length: int, room: int, stride: int, number: int) -> np.ndarray:
    """Mask of the tokens of window `number` that have most context in it, bool [tokens]; `length` is the context's.

    The score of a token in a window is the number of tokens to its left or right, whichever is smaller, plus 0.01 times
    the length of the window; ties go to the first window (`_check_is_max_context` in run_squad.py).
    """
    begin = number * stride
    tokens_here = np.arange(begin, min(begin + room, length))

    def context(other: int) -> np.ndarray:
        start, end = other * stride, min(other * stride + room, length)
        sides = np.minimum(tokens_here - start, end - 1 - tokens_here)
        return np.where(sides < 0, -1.0, sides + 0.01 * (end - start))

    reach, last = -(-room // stride), -(-max(length - room, 0) // stride)
    here, most = context(number), np.ones(len(tokens_here), bool)
    for other in range(max(number - reach, 0), min(number + reach, last) + 1):
        if other != number:
            most &= here > context(other) if other < number else here >= context(other)
    return most


class Windows(Sequence[Window]):
    """The windows of all examples or, with `only_known`, of those whose answer is known.

    The source of an example is the tokens of question and context, its target the length of the question and, if known,
    the span of the answer (see `target`).
    """

    def __init__(self, examples: Sequence[packing.Example], layout: Layout, only_known: bool = False):
        self._examples, self.layout = examples, layout
        rows = [(len(source), *_numbers(target)) for source, target in map(examples.__getitem__, range(len(examples)))]
        sizes, self.questions, firsts, _ = np.array(rows, np.int64).reshape(-1, 4).T
        self.contexts, self.is_known = sizes - self.questions, firsts != UNKNOWN
        counts = layout.counts(self.questions, self.contexts) * (self.is_known | (not only_known))
        self.example = np.repeat(np.arange(len(counts)), counts)  # of each window
        self._number = np.arange(len(self.example)) - np.repeat(np.cumsum(counts) - counts, counts)

    @property
    def lengths(self) -> np.ndarray:
        """The number of tokens of each window, int64 [windows]."""
        kept = self.layout.kept(self.questions, self.contexts)[self.example]
        room = self.layout.length - self.layout.special - kept
        rest = self.contexts[self.example] - self._number * self.layout.stride
        return self.layout.special + kept + np.minimum(room, rest)

    def __len__(self) -> int:
        return len(self.example)

    def __getitem__(self, index: int) -> Window:  # pyright: ignore[reportIncompatibleMethodOverride]  no slices
        source, target = self._examples[int(self.example[index])]
        question, first, last = _numbers(target)
        return self.layout.window(source[:question], source[question:], (first, last), int(self._number[index]))


def target(question: int, answer: tuple[int, int]) -> list[int]:
    """The stored target, without negative numbers: the length of the question and, if known, the answer plus 1.

    `answer` is a result of `locate`.
    """
    return [question, *(() if answer[0] == UNKNOWN else (index + 1 for index in answer))]


def _numbers(target: np.ndarray) -> tuple[int, int, int]:
    """The inverse of `target`: the length of the question, and the first and last token of the answer."""
    question, *answer = target.tolist()
    return (question, answer[0] - 1, answer[1] - 1) if answer else (question, UNKNOWN, UNKNOWN)


@dataclasses.dataclass(frozen=True)
class WindowsToArrays:
    """Converts the windows of a row, at most `most`, to int32 arrays, see spans.Spans."""

    length: int
    most: int

    def __call__(self, windows: Sequence[Window], rng: object = None) -> dict[str, np.ndarray]:
        """The arrays; `rng` is not used."""
        found = packing.arrays("source", [window.tokens for window in windows], self.length)
        for name in ("types", "context"):
            row = np.concatenate([getattr(window, name) for window in windows])
            found[f"source_{name}"] = np.pad(row, (0, self.length - len(row)))
        answers = np.full((self.most, 2), -1, np.int32)
        answers[: len(windows)] = [window.answer for window in windows]
        return {**found, "answer": answers, "shift": np.array(windows[0].shift, np.int32)}
