"""Corrupted texts at five severities: typing errors, and words that are left out."""

import re

import numpy as np

from research.metrics import scripts
from research.trust import corruptions

TYPOS = (0.02, 0.05, 0.1, 0.15, 0.2)  # the share of letters with an error
DROPS = (0.05, 0.1, 0.2, 0.3, 0.4)  # the share of words left out
KINDS = {"typos": TYPOS, "word_drops": DROPS}  # -> the strength by severity

_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")  # of a keyboard
_WORD = re.compile(r"\S+")


def corrupt(text: str, kind: str, severity: int, index: int) -> str:
    """`text`, corrupted; the random numbers are a function of (kind, severity, index).

    Raises ValueError for an unknown kind or severity.
    """
    strength = corruptions.strength(KINDS, kind, severity)
    rng = corruptions.generator(index, kind, severity)
    return typos(text, strength, rng) if kind == "typos" else drop_words(text, strength, rng)


def typos(text: str, rate: float, rng: np.random.Generator) -> str:
    """`text` with an error at each letter with probability `rate`, of four kinds alike (Belinkov and Bisk, 2018).

    The letter is left out, doubled, swapped with the next letter, or replaced by a neighbour on the keyboard; a letter
    without a neighbour, or without a next letter, is doubled. Something of every text is left.
    """
    made, at = [], 0
    while at < len(text):
        letter, after = text[at], text[at + 1 : at + 2]
        at += 1
        if not letter.isalnum() or rng.random() >= rate:
            made.append(letter)
            continue
        error = rng.integers(4)
        if error == 0:
            continue
        if error == 1 and after.isalnum():
            made.append(after + letter)
            at += 1
        elif error == 2 and (near := neighbours(letter)):
            made.append(near[int(rng.integers(len(near)))])
        else:
            made.append(letter * 2)
    changed = "".join(made)
    return changed if changed.strip() else text


def neighbours(letter: str) -> str:
    """The letters beside one on the keyboard, in its case; none for other characters."""
    for number, row in enumerate(_ROWS):
        column = row.find(letter.lower())
        if column >= 0:
            beside = row[max(column - 1, 0) : column + 2].replace(letter.lower(), "")
            above = _ROWS[number - 1][column : column + 1] if number else ""
            below = _ROWS[number + 1][column : column + 1] if number + 1 < len(_ROWS) else ""
            found = beside + above + below
            return found.upper() if letter.isupper() else found
    return ""


def drop_words(text: str, rate: float, rng: np.random.Generator) -> str:
    """`text` without each word with probability `rate`; one word is left at least.

    In scripts without spaces, each letter is a word. White space becomes one space.
    """
    words = [part for match in _WORD.finditer(text) for part in _parts(match[0])]
    kept = rng.random(len(words)) >= rate
    if not kept.any():
        kept[int(rng.integers(len(words)))] = True
    made = ""
    for (first, word), keep in zip(words, kept, strict=True):
        if keep:
            made += f" {word}" if first and made else word
    return made


def _parts(word: str) -> list[tuple[bool, str]]:
    """The words in a text without white space, each with whether a space is before it."""
    parts = scripts.split_unspaced(word) if scripts.has_unspaced(word) else [word]
    return [(number == 0, part) for number, part in enumerate(parts)]
