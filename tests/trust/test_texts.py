"""Corrupted texts: the measured rates of errors, and what stays."""

import numpy as np
import pytest

from research.data.text import templates
from research.trust import corrupted, texts

WORDS = " ".join(["straight", "forward", "sentences"] * 400)


def edits(one, other):
    """The Levenshtein distance, with swaps of neighbours (optimal string alignment)."""
    rows = [list(range(len(other) + 1))]
    for i, letter in enumerate(one, start=1):
        row = [i]
        for j, made in enumerate(other, start=1):
            best = min(rows[-1][j] + 1, row[-1] + 1, rows[-1][j - 1] + (letter != made))
            if i > 1 and j > 1 and letter == other[j - 2] and one[i - 2] == made:
                best = min(best, rows[-2][j - 2] + 1)
            row.append(best)
        rows.append(row)
    return rows[-1][-1]


@pytest.mark.parametrize("severity", [1, 3, 5])
def test_the_rate_of_typing_errors_is_that_of_the_severity(severity):
    words = WORDS.split()[:600]
    changed = [texts.corrupt(word, "typos", severity, index) for index, word in enumerate(words)]
    made = sum(edits(*pair) for pair in zip(words, changed, strict=True))
    assert made / sum(map(len, words)) == pytest.approx(texts.TYPOS[severity - 1], rel=0.25)


@pytest.mark.parametrize("severity", [1, 3, 5])
def test_the_share_of_dropped_words_is_that_of_the_severity(severity):
    changed = texts.corrupt(WORDS, "word_drops", severity, 3).split()
    assert 1 - len(changed) / 1200 == pytest.approx(texts.DROPS[severity - 1], abs=0.035)
    assert set(changed) == set(WORDS.split())


def test_a_text_is_corrupted_by_its_index_and_never_empty():
    for kind in texts.KINDS:
        assert texts.corrupt(WORDS, kind, 3, 1) == texts.corrupt(WORDS, kind, 3, 1) != texts.corrupt(WORDS, kind, 3, 2)
        assert all(texts.corrupt("a", kind, 5, index).strip() for index in range(50))
    with pytest.raises(ValueError, match="unknown corruption 'fog' of severity 1; choose from typos, word_drops"):
        texts.corrupt("a", "fog", 1, 0)


def test_letters_of_scripts_without_spaces_are_words():
    rng = np.random.default_rng(0)
    text = "我们今天去公园" * 30
    dropped = texts.drop_words(text, 0.3, rng)
    assert " " not in dropped and len(dropped) / len(text) == pytest.approx(0.7, abs=0.1)
    assert texts.neighbours("G") == "FHTB" and texts.neighbours("我") == ""


def test_punctuation_and_spaces_stay():
    changed = texts.typos("a, b. (c)! " * 50, 0.5, np.random.default_rng(0))
    assert [changed.count(mark) for mark in ",.()! "] == [50] * 5 + [150]


@pytest.mark.parametrize(
    ("source", "changed"),
    [
        ("{body}", ("body",)),
        ("{context} {question}", ("question",)),
        ("{asked} of {title}\t{title}: {text}", ("asked",)),
        ("{zh} {note}", ("zh", "note")),
    ],
)
def test_contexts_of_questions_stay(source, changed):
    assert corrupted.fields_changed(templates.Template(source, "{answer}")) == changed
