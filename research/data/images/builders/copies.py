"""Exact duplicates of files within and across splits, which would leak training images into the test split."""

import hashlib


class Copies:
    """Detects duplicates among the files that are added, by hash."""

    def __init__(self):
        self._first: dict[bytes, tuple[str, str]] = {}  # digest -> split and name of the file that was added first
        self._within: list[str] = []
        self._between: list[str] = []

    def add(self, split: str, name: str, content: bytes) -> None:
        """Adds a file."""
        key = hashlib.blake2b(content, digest_size=16).digest()
        other, first = self._first.setdefault(key, (split, name))
        if other != split:
            self._between.append(f"{name} of {split} is {first} of {other}")
        elif first != name:
            self._within.append(f"{name} is {first}")

    def described(self) -> list[str]:
        """The number of duplicates of each kind, with an example; empty if there are none."""
        kinds = {"duplicates in one split, all kept": self._within, "DUPLICATES ACROSS SPLITS, all kept": self._between}
        return [f"{len(found):,} {what} ({found[0]})" for what, found in kinds.items() if found]
