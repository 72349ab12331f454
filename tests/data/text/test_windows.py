"""Answers in contexts, windows over them, and the rows that these become, against brute force."""

import re

import numpy as np
import pytest
import tokenizers
from tokenizers import processors

from research.data.text import tokenizer, vocabulary, windows
from tests.data.text.test_tokenizer import TEXTS, write


def words(text):
    """The bounds of words and of marks, as a plain tokenizer has them."""
    return np.array([match.span() for match in re.finditer(r"\w+|[^\w\s]", text)])


def found(answer, context, **options):
    first, last = windows.locate(answer, context, words(context), **options)
    return context[slice(words(context)[first, 0], words(context)[last, 1])] if first >= 0 else first


@pytest.mark.parametrize(
    ("answer", "context", "expected"),
    [
        ("he", "The old man, he said, waits.", "he"),  # not that of "The"
        ("naïve  Zoë", "The naïve\tZoë's cat.", "naïve\tZoë"),
        ("ZOË", "Of Zoë, ZOË and zoë.", "ZOË"),
        ("of zoë", "It is Of Zoë.", "Of Zoë"),
        ("(1.5 %)", "It grew (1.5 %) a year.", "(1.5 %)"),
        ("5", "15 or 25", "15"),  # no token alone: the first that holds it
        ("中文", "他说中文 。", "他说中文"),
        ("", "Nothing is asked.", windows.NONE),
        (" \n", "Nothing is asked.", windows.NONE),
        ("cat", "A dog.", windows.UNKNOWN),
        ("a dog waits", "A dog.", windows.UNKNOWN),
    ],
)
def test_an_answer_is_located_by_its_characters(answer, context, expected):
    assert found(answer, context) == expected


def test_a_known_begin_chooses_among_equal_answers():
    context = "Tom saw Ann. Ann saw Tom."
    for begin, token in ((0, 0), (21, 6)):
        assert windows.locate("Tom", context, words(context), begin) == (token, token)
    assert windows.locate("Tom", context, words(context), 3) == (0, 0)  # a wrong one is not believed


UNICODE = ["  A  cat\tsees\n☃ Zoë's naïve CAT.", "ﬁve cats", "x", " ", "一只猫 cat"]


@pytest.mark.parametrize("kind", ["wordpiece", "bpe", "unigram", "sentencepiece", "folded"])
def test_offsets_cover_every_character_but_white_space_in_order(kind, tmp_path):
    if kind in ("sentencepiece", "folded"):
        path = tmp_path / "a.model"
        settings = vocabulary.Settings(size=400, fold_case=kind == "folded")
        path.write_bytes(vocabulary.train(TEXTS, settings))
        made = vocabulary.Vocabulary.of_file(str(path), 400)
    else:
        made = tokenizer.open_vocabulary(str(write(tmp_path, kind)), 400)
    for text, (ids, offsets) in zip(UNICODE, made.encode_with_offsets(UNICODE), strict=True):
        assert len(ids) == len(offsets) and (np.diff(offsets, axis=0) >= 0).all()
        parts = [text[begin:end] for begin, end in offsets]
        assert all(part == part.strip() and part for part in parts) or not text.strip()
        covered = {place for begin, end in offsets for place in range(begin, end)}
        if kind != "bpe":  # whose alphabet is that of its training texts
            assert {place for place, letter in enumerate(text) if not letter.isspace()} <= covered
    plain = "the cat sees a dog"
    ids, offsets = made.encode_with_offsets([plain])[0]
    before = len(made.pair_tokens[0]) if kind in ("wordpiece", "bpe", "unigram") else 0
    assert ids == made.encode(plain)[before:]
    covered = {place for begin, end in offsets for place in range(begin, end)}
    assert covered == {place for place, letter in enumerate(plain) if letter != " "}


def test_pairs_have_the_special_tokens_of_the_file(tmp_path):
    made = tokenizer.open_vocabulary(str(write(tmp_path)), 400)
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json")).encode("the cat", "sees a dog")
    before, between, behind = made.pair_tokens
    question, context = (located.ids for located in made.encode_with_offsets(["the cat", "sees a dog"]))
    assert [*before, *question, *between, *context, *behind] == theirs.ids
    assert [0] * (len(before) + len(question) + len(between)) + [1] * (len(context) + len(behind)) == theirs.type_ids


def test_a_tokenizer_without_pairs_is_refused_in_one_line(tmp_path):
    path = write(tmp_path)
    theirs = tokenizer.open_vocabulary(str(path), 400)._processor
    theirs.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="$A [SEP] $B [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    theirs.save(str(path))
    with pytest.raises(ValueError, match="lacks special tokens before, between or after the texts of a pair"):
        tokenizer.open_vocabulary(str(path), 400).pair_tokens  # noqa: B018


# ---- Windows.

BEFORE, BETWEEN, BEHIND = (101,), (102, 103), (104,)


def layout(length, stride, **options):
    return windows.Layout(BEFORE, BETWEEN, BEHIND, length, stride, **options)


def devlin(length, room, stride):
    """The (start, length) of windows, and of each the tokens that have most context there, as run_squad.py has them."""
    spans, start = [], 0
    while start < length:
        size = min(length - start, room)
        spans.append((start, size))
        if start + size == length:
            break
        start += min(size, stride)
    owned = [set() for _ in spans]
    for token in range(length):
        best, chosen = None, None
        for number, (start, size) in enumerate(spans):
            end = start + size - 1
            if start <= token <= end:
                score = min(token - start, end - token) + 0.01 * size
                if best is None or score > best:
                    best, chosen = score, number
        owned[chosen].add(token)
    return spans, owned


@pytest.mark.parametrize("question", [0, 1, 5])
@pytest.mark.parametrize(("length", "stride"), [(16, 1), (16, 4), (16, 6), (20, 5), (24, 7)])
def test_windows_are_those_of_bert(question, length, stride):
    made, room = layout(length, stride), length - 4 - question
    for size in [0, 1, 2, *range(room - 1, 4 * room)]:
        context, asked = np.arange(size) + 1000, np.arange(question) + 500
        spans, owned = devlin(size, room, stride) if size else ([(0, 0)], [set()])
        assert made.counts(np.array([question]), np.array([size])).tolist() == [len(spans)]
        for number, ((start, length_here), mine) in enumerate(zip(spans, owned, strict=True)):
            window = made.window(asked, context, (windows.UNKNOWN,) * 2, number)
            inside = np.flatnonzero(window.context)
            assert (window.tokens[inside] - 1000).tolist() == list(range(start, start + length_here))
            assert set(inside[window.context[inside] == 2] + window.shift) == mine
            assert len(window.tokens) <= length and window.types.sum() == length_here + len(BEHIND)


def test_the_answer_of_a_window_is_that_of_the_context_or_cls():
    made, context = layout(16, 4), np.arange(30) + 1000
    asked = np.arange(4) + 500  # 8 tokens of the context fit
    for first, last in ((0, 0), (3, 9), (10, 12), (29, 29), (2, 20)):
        for number in range(made.counts(np.array(4), np.array(30))):
            window = made.window(asked, context, (first, last), number)
            begin, end = window.answer
            if 4 * number <= first and last < min(4 * number + 8, 30):
                assert (window.tokens[begin], window.tokens[end]) == (1000 + first, 1000 + last)
                assert (begin + window.shift, end + window.shift) == (first, last)
            else:
                assert window.answer == (0, 0)
    assert made.window(asked, context, (windows.NONE,) * 2, 2).answer == (0, 0)
    assert made.window(asked, context, (windows.UNKNOWN,) * 2, 2).answer == (-1, -1)


@pytest.mark.parametrize("keep_end", [False, True])
def test_a_question_is_cut_as_far_as_the_stride_needs(keep_end):
    made, asked = layout(16, 6, keep_end=keep_end), np.arange(11) + 500
    assert made.kept(np.array([11, 11, 7, 7]), np.array([1, 30, 5, 30])).tolist() == [11, 6, 7, 6]
    window = made.window(asked, np.arange(30) + 1000, (0, 0), 1)
    kept = asked[5:] if keep_end else asked[:6]
    assert window.tokens.tolist() == [*BEFORE, *kept, *BETWEEN, *range(1006, 1012), *BEHIND]


def test_rows_hold_windows_side_by_side():
    made = layout(12, 4)
    examples = [
        (np.array([7, 8, 20, 21, 22]), np.array(windows.target(2, (1, 2)))),
        (np.array([9, *range(30, 45)]), np.array(windows.target(1, (windows.UNKNOWN,) * 2))),
        (np.array([5, 40]), np.array(windows.target(1, (windows.NONE,) * 2))),
    ]
    every, known = (windows.Windows(examples, made, only_known=only) for only in (False, True))
    assert every.example.tolist() == [0, 1, 1, 1, 2] and known.example.tolist() == [0, 2]
    assert every.is_known.tolist() == [True, False, True]
    assert every.lengths.tolist() == [len(window.tokens) for window in every] == [9, 12, 12, 12, 6]
    row = windows.WindowsToArrays(16, 3)([known[0], known[1]])
    assert row["source"].tolist() == [101, 7, 8, 102, 103, 20, 21, 22, 104, 101, 5, 102, 103, 40, 104, 0]
    assert row["source_segments"].tolist() == [1] * 9 + [2] * 6 + [0]
    assert row["source_positions"].tolist() == [*range(9), *range(6), 0]
    assert row["source_types"].tolist() == [0] * 5 + [1] * 4 + [0] * 4 + [1] * 2 + [0]
    assert row["source_context"].tolist() == [0] * 5 + [2] * 3 + [0] * 5 + [2] + [0] * 2
    assert row["answer"].tolist() == [[6, 7], [0, 0], [-1, -1]] and row["shift"] == -5
