"""Progress of long operations: a bar on a terminal, elsewhere a plain line at intervals.

All progress bars and messages go through this module, so that messages are not printed into a bar's line, and logs have
no carriage returns.
"""

import contextlib
import os
import sys
import time
import weakref
from collections.abc import Iterable, Iterator, Sized
from pathlib import Path
from typing import Any, TextIO, TypeVar

from tqdm import tqdm

from research import files

# Initial seconds between two plain lines (TESSERA_PROGRESS_S overrides it); later a twentieth of the elapsed time, but
# no more than AT_MOST_S.
EVERY_S = 10.0
AT_MOST_S = 300.0

Item = TypeVar("Item")


class Lines:
    """Progress without a terminal: nothing for short operations, then a plain line at intervals."""

    def __init__(self, total: int | None, what: str, unit: str, initial: int = 0):
        self.n, self._total, self._what, self._unit = initial, total, what, unit
        self._from: tuple[int, float] | None = None  # count and time from which the time left is estimated
        self._begun = self._last = time.monotonic()
        self._every_s = _every_s()
        self._shown: int | None = None
        self._more = ""

    def update(self, count: int = 1) -> None:
        """Advances by `count`."""
        self.n += count
        now = time.monotonic()
        self._from = self._from or (self.n, now)  # after the first, which waits for compilation
        if now - self._last >= max(self._every_s, min(AT_MOST_S, self._every_s and (now - self._begun) / 20)):
            self._last = now
            self._show()

    def set_postfix_str(self, text: str) -> None:
        """Sets the text shown after the counts."""
        self._more = text

    def close(self) -> None:
        """Prints a last line if any was printed."""
        if self._shown not in (None, self.n):
            self._show()

    def __enter__(self) -> "Lines":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _show(self) -> None:
        self._shown = self.n
        of = f" of {self._total:,} ({self.n / self._total:.0%})" if self._total else ""
        now = time.monotonic()
        parts = [f"{self.n:,}{of} {self._unit} after {now - self._begun:.0f} s", self._more]
        if self._total and self._from and self._from[0] < self.n < self._total:
            each_s = (now - self._from[1]) / (self.n - self._from[0])
            parts.append(f"about {_span(each_s * (self._total - self.n))} left")
        say(f"{self._what}: " + ", ".join(filter(None, parts)))


class _Hidden(Lines):
    """Progress on processes other than process 0: nothing."""

    def _show(self) -> None:
        pass


def bar(total: int | None, what: str, unit: str, initial: int = 0, hidden: bool = False, brief: bool = False) -> Any:
    """A progress bar with tqdm's `n`, `update(count)`, `set_postfix_str(text)` and `close()`; also a context manager.

    With `brief` it appears only for long operations, and is removed from the terminal at the end.
    """
    if hidden:
        return _Hidden(total, what, unit, initial)
    if not on_terminal():
        return Lines(total, what, unit, initial)
    return tqdm(
        total=total, desc=what, unit=f" {unit}", initial=initial, dynamic_ncols=True, file=sys.stderr,
        leave=not brief, delay=2 if brief else 0,
    )  # fmt: skip


def over(items: Iterable[Item], what: str, unit: str, total: int | None = None) -> Iterator[Item]:
    """Iterates over `items` and shows progress."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    with bar(total, what, unit) as shown:
        for item in items:
            yield item
            shown.update()


def on_terminal() -> bool:
    """Whether standard error is a terminal."""
    return sys.stderr is not None and sys.stderr.isatty()


def say(line: str) -> None:
    """Prints a line to standard error above any progress bar, and writes it to every open `Log`."""
    for log in list(_LOGS):
        log.write(line)
    if on_terminal():
        tqdm.write(line, file=sys.stderr)
    else:
        print(line, file=sys.stderr, flush=True)


_LOGS: "weakref.WeakSet[Log]" = weakref.WeakSet()


class Log:
    """Appends messages with their time (UTC) to a file. Messages before `open` are buffered.

    A file that cannot be written is ignored.
    """

    def __init__(self) -> None:
        self._kept: list[str] = []
        self._file: TextIO | None = None
        _LOGS.add(self)

    def open(self, path: Path) -> None:
        """Opens the file for appending."""
        with contextlib.suppress(OSError):
            files.end_line(path)
            self._file = path.open("a", buffering=1, encoding="utf-8")
            self._file.writelines(self._kept)
        self._kept = []

    def write(self, line: str) -> None:
        """Writes a line to the log only."""
        stamped = f"{time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime())} {line}\n"
        if self._file is None:
            self._kept.append(stamped)
            return
        with contextlib.suppress(OSError):
            self._file.write(stamped)

    def close(self) -> None:
        """Closes the log; idempotent."""
        _LOGS.discard(self)
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()


def _span(seconds: float) -> str:
    """`40 s`, `12 min` or `3.5 h`."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _every_s() -> float:
    text = os.environ.get("TESSERA_PROGRESS_S", "")
    try:
        return float(text or EVERY_S)
    except ValueError:
        raise ValueError(f"TESSERA_PROGRESS_S={text!r} must be a number of seconds; change or unset it") from None


def close_all() -> None:
    """Closes progress bars that an error left open, so that the next output starts on a new line."""
    for open_bar in list(getattr(tqdm, "_instances", ())):
        open_bar.close()
