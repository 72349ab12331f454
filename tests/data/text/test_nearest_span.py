"""The span that is most like an answer, against brute force with the F1 of SQuAD's evaluation."""

import re

import numpy as np
import pytest

from research.data.text import nearest_span
from research.metrics import text_scores


def f1(prediction, answer):
    return text_scores.squad_each([prediction], [{"references": [answer]}])[0]["f1"][0]


def brute_force(answer, context):
    """The best F1 of any run of words, and the fewest words that have it."""
    pieces = context.split()
    runs = [pieces[i:j] for i in range(len(pieces)) for j in range(i + 1, len(pieces) + 1)]
    return max(f1(" ".join(run), answer) for run in runs)


@pytest.mark.parametrize("least", [0.01, 0.5, 0.75, 1.0])
def test_its_f1_is_the_best_of_all_runs_of_words(least):
    rng = np.random.default_rng(0)
    letters = ["a", "The", "cat", "cat,", "DOG", "dog's", "(bird", "sees", "...", "an"]
    found = []
    for _ in range(150):
        context, answer = (" ".join(rng.choice(letters, rng.integers(1, size))) for size in (10, 5))
        best, span = brute_force(answer, context), nearest_span.nearest(answer, context, least)
        found.append(span is not None)
        if best < least or not text_scores.normalise_answer(answer):
            assert span is None
            continue
        part = context[slice(*span)]
        assert f1(part, answer) == pytest.approx(best) and not re.match(r"\W|(a|an|the)\b", part, re.IGNORECASE)
    assert 10 < sum(found) < 150


@pytest.mark.parametrize(
    ("answer", "context", "expected"),
    [
        ("the mill, an old one", "It moved to (old mill), bring hats.", "old mill"),
        ("to a friend", "From Ann to friend to friend.", "to friend"),  # the first of equal ones
        ("$5 more", "He paid $5.", "$5"),
        ("by ann lee", "@AnnLee by #Ann!", "by #Ann"),
        ("", "Nothing.", None),
        ("...", "Nothing ...", None),
        ("a dog", "", None),
        ("the one dog that waits here now", "A dog.", None),
    ],
)
def test_a_span_is_cut_where_its_words_begin_and_end(answer, context, expected):
    span = nearest_span.nearest(answer, context, 0.5)
    assert (span and context[slice(*span)]) == expected
