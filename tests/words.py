"""Fails on private words where the field has a standard term; `make lint` runs `python -m tests.words`.

A line that needs such a word, for example the name of a user's folder, says `words: allow` in a comment.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
TOPS = (
    "research",
    "configs",
    "experiments",
    "tests",
    "docs",
    "tpu_scripts",
    "README.md",
    "CONTRIBUTING.md",
    "Makefile",
)
SUFFIXES = (".py", ".md", ".ipynb", ".sh", "")
EXCLUDED = ("tests/words.py",)
# Word -> standard term. Words also count inside snake_case names, several of them with underscores between.
WORDS = {
    "pictures?": "image",
    "likest": "nearest, most similar",
    "likeliest": "most likely",
    "mend(s|ed|ing)?": "fix",
    "laid over": "interpolated",
    "heard": "mask; recognised",
    "places": "positions, locations, indices",
    "afresh": "initialised, again",
    "signs? of life": "heartbeat",
    "stands? in for": "replaces, is used instead of",
    "passed over": "skipped",
    "in a row": "consecutive, n-gram",
    "by heart": "memorised, overfitted",
}
_PATTERNS = {re.compile(rf"(?i)(?<![a-z]){word.replace(' ', '[ _]')}(?![a-z])"): term for word, term in WORDS.items()}


def pages(root: Path = ROOT) -> Iterator[Path]:
    """The files that are checked."""
    for top in (root / name for name in TOPS):
        for path in sorted(top.rglob("*")) if top.is_dir() else [top]:
            name = path.relative_to(root).as_posix()
            if path.is_file() and path.suffix in SUFFIXES and not name.startswith(EXCLUDED):
                yield path


def found(text: str, name: str) -> list[str]:
    """`name:LINE: WORD; write TERM` for each private word in a text."""
    return [
        f"{name}:{number}: {match[0]!r}; write {term}"
        for number, line in enumerate(text.splitlines(), start=1)
        if "words: allow" not in line
        for pattern, term in _PATTERNS.items()
        for match in pattern.finditer(line)
    ]


def main() -> int:
    """Prints what is found; 1 where that is anything."""
    lines = [line for path in pages() for line in found(path.read_text("utf-8"), str(path.relative_to(ROOT)))]
    print("\n".join(lines) or "no private words")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
