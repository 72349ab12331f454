"""Writing systems: the script of texts, and tokenisation into words, so that scores are comparable between scripts.

Chinese, Japanese, Thai, Lao, Khmer, Burmese and Tibetan have no spaces between words. Here each of their letters, with
its combining marks, is a word, as in the evaluations CMRC 2018 and MLQA and in mixed error rates for Mandarin.
"""

import collections
import re
import unicodedata
from collections.abc import Iterable, Sequence

HAN = "\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"
_KANA = "\u3041-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\uff66-\uff9f"
_OTHERS = (
    "\u0e01-\u0e3a\u0e40-\u0e4e\u0e81-\u0ece\u0edc-\u0edf\u0f00\u0f40-\u0fbc\u1000-\u103f\u1050-\u108f\u1780-\u17d3"
)
_HANGUL = "\u1100-\u11ff\u3131-\u318e\uac00-\ud7a3"
_ASCII_WORD = re.compile("[A-Za-z0-9]+")
_UNSPACED = re.compile(f"[{HAN}{_KANA}{_OTHERS}]")
_SCRIPTS = {"ja": re.compile(f"[{_KANA}]"), "zh": re.compile(f"[{HAN}]"), "ko": re.compile(f"[{_HANGUL}]")}

UNSPACED = "each letter of scripts without spaces is a word"


def has_unspaced(text: str) -> bool:
    """Whether the text has letters of a script that is written without spaces."""
    return bool(_UNSPACED.search(text))


def of(texts: Iterable[str]) -> str:
    """The script of most words of the texts: "zh", "ja", "ko", "unspaced" (such as Thai), "latin" or "other".

    Text with Chinese characters is Japanese if at least a twentieth of it is kana, else Chinese.
    """
    counts: collections.Counter = collections.Counter()
    for text in texts:
        counts.update(map(_script, words(text)))
    east = counts["zh"] + counts["ja"]
    groups = {"east": east, **{script: counts[script] for script in ("latin", "ko", "unspaced", "other")}}
    most = max(groups, key=groups.__getitem__) if counts else "latin"
    if most == "east":
        return "ja" if 20 * counts["ja"] >= east else "zh"
    return most


def words(text: str) -> list[str]:
    """The runs of letters, digits and marks; in scripts without spaces, each letter with its marks."""
    return _ASCII_WORD.findall(text) if text.isascii() else _runs(text, keep="")


def fold(text: str) -> str:
    """`text` in lower case and in NFKC, which maps full-width letters to plain ones."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).lower())


def split_unspaced(text: str) -> list[str]:
    """The words between spaces; in scripts without spaces, each letter with its marks."""
    return [part for word in text.split() for part in (_pieces(word) if has_unspaced(word) else [word])]


def spoken(text: str) -> list[str]:
    """The words of `fold(text)`, keeping apostrophes within words, without invisible format characters."""
    return _runs(fold(text).replace("\u2019", "'"), keep="'")


def written(spoken_words: Sequence[str]) -> str:
    """Joins words, with a space only between two words of scripts that have spaces."""
    text, before = "", ""
    for word in spoken_words:
        joined = not text or has_unspaced(word) or has_unspaced(before)
        text += word if joined else f" {word}"
        before = word
    return text


def without_punctuation(text: str) -> str:
    """`text` without Unicode punctuation and ASCII symbols."""
    return "".join(letter for letter in text if not _is_punctuation(letter))


def _runs(text: str, keep: str) -> list[str]:
    letters = []
    for letter in text:
        if letter.isalnum() or letter in keep or _is_mark(letter):  # marks, such as vowels of Hindi, belong to letters
            letters.append(letter)
        elif unicodedata.category(letter) != "Cf":  # such as soft hyphens and joiners, which occur inside words
            letters.append(" ")
    found = (part.strip(keep) for part in split_unspaced("".join(letters)))
    return [word for word in (_without_first_marks(word) for word in found) if word]


def _pieces(word: str) -> list[str]:
    pieces: list[str] = []
    run = False  # whether the last piece is a run of letters of another script
    for letter in word:
        unspaced = has_unspaced(letter)
        if pieces and (_is_mark(letter) or (run and not unspaced)):
            pieces[-1] += letter
        else:
            pieces.append(letter)
            run = not unspaced
    return pieces


def _script(word: str) -> str:
    for script, pattern in _SCRIPTS.items():
        if pattern.match(word):
            return script
    if has_unspaced(word):
        return "unspaced"
    letter = next((letter for letter in word if letter.isalpha()), "")
    return "latin" if not letter or "LATIN" in unicodedata.name(letter, "") else "other"


def _without_first_marks(word: str) -> str:
    while word and _is_mark(word[0]):
        word = word[1:]
    return word


def _is_mark(letter: str) -> bool:
    return unicodedata.category(letter)[0] == "M"


def _is_punctuation(letter: str) -> bool:
    category = unicodedata.category(letter)[0]
    return category == "P" or (letter.isascii() and category == "S")
