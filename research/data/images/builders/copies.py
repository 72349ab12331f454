"""Files that a data set holds more than once, byte for byte: what is tested on may have been trained on."""

import hashlib


class Copies:
    """Notices copies among the files that are added, in little memory."""

    def __init__(self):
        self._first: dict[bytes, tuple[str, str]] = {}  # digest -> split and name of the file that was added first
        self._within: list[str] = []
        self._between: list[str] = []

    def add(self, split: str, name: str, content: bytes) -> None:
        """Takes the next file."""
        key = hashlib.blake2b(content, digest_size=16).digest()
        other, first = self._first.setdefault(key, (split, name))
        if other != split:
            self._between.append(f"{name} of {split} is {first} of {other}")
        elif first != name:
            self._within.append(f"{name} is {first}")

    def described(self) -> list[str]:
        """How many there are of each kind, and the first of them; empty where there are none."""
        kinds = {"copies in one split, all kept": self._within, "COPIES IN TWO SPLITS, all kept": self._between}
        return [f"{len(found):,} {what} ({found[0]})" for what, found in kinds.items() if found]
