"""Ctrl-C while a checkpoint is written: broken off halfway, Orbax leaves threads behind that wait for minutes."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from typing import NoReturn

EXIT_CODE = 130  # as shells give it to what SIGINT ended


@contextlib.contextmanager
def held() -> Iterator[None]:
    """Ctrl-C in the body raises KeyboardInterrupt at its end; a second one ends the process at once."""
    come = []

    def note(*_):
        if come:
            _end("interrupted twice")
        come.append(True)

    with _handled_by(note):
        yield
    if come:
        raise KeyboardInterrupt


@contextlib.contextmanager
def last(seconds: float | None = None) -> Iterator[None]:
    """On the way out: Ctrl-C in the body ends the process at once, and so does a body that takes longer."""
    timer = threading.Timer(seconds or 0, _end, ["interrupted"])
    timer.daemon = True
    if seconds is not None:
        timer.start()
    try:
        with _handled_by(lambda *_: _end("interrupted")):
            yield
    finally:
        timer.cancel()


@contextlib.contextmanager
def _handled_by(handler) -> Iterator[None]:
    """Only where Ctrl-C would raise KeyboardInterrupt: not in other threads, nor inside such a body."""
    ours = threading.current_thread() is threading.main_thread()
    if not ours or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _end(why: str) -> NoReturn:
    os.write(2, f"\nerror: {why}; what was being written is lost, the same command goes on before it\n".encode())
    os._exit(EXIT_CODE)
