"""The span of a context most similar to an abstractive answer, as a target for an extractive model."""

import collections
import re
import string

from research.metrics import text_scores

# Punctuation stripped from the ends of a span; other characters (#name, @name, $5, 5%) are part of their words.
_MARKS = "".join(set(string.punctuation) - set("#@$%&+")) + "“”\u2018\u2019«»…"
_WORD = re.compile(r"\S+")


def nearest(answer: str, context: str, least: float) -> tuple[int, int] | None:
    """The character span (start, end) of `context` with the highest token F1 with `answer`.

    Words and F1 are those of SQuAD's evaluation (Rajpurkar et al., 2016): in lower case, without ASCII punctuation and
    articles, separated by white space. Ties are broken by the earliest start, then by the shortest span.

    Args:
        answer: The reference answer.
        context: The text to search.
        least: The minimum F1, above 0 and at most 1.

    Returns:
        None if no span has an F1 of at least `least`.
    """
    words = [(text_scores.normalise_answer(match[0]), *match.span()) for match in _WORD.finditer(context)]
    words = [word for word in words if word[0]]
    wanted = collections.Counter(text_scores.normalise_answer(answer).split())
    count, best, found = wanted.total(), least, None
    most = int(2 * count / least) - count  # maximum words in a span with all `count` words and an F1 of `least`
    for first, (word, begin, _) in enumerate(words):
        if word not in wanted:  # the span without it would be better
            continue
        left, common = wanted.copy(), 0
        for size, (other, _, end) in enumerate(words[first : first + most], start=1):
            if left[other] > 0:
                left[other] -= 1
                common += 1
                f1 = 2 * common / (size + count)
                if f1 > best or (found is None and f1 == best):
                    best, found = f1, (begin, end)
    return None if found is None else _without_marks(context, *found)


def _without_marks(text: str, begin: int, end: int) -> tuple[int, int]:
    """The span without the punctuation at its ends."""
    part = text[begin:end]
    return begin + len(part) - len(part.lstrip(_MARKS)), end - len(part) + len(part.rstrip(_MARKS))
