"""Handles Ctrl-C while a checkpoint is written: when interrupted, Orbax leaves threads that wait for minutes."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from typing import NoReturn

EXIT_CODE = 130  # as shells report a process that SIGINT ended


@contextlib.contextmanager
def held() -> Iterator[None]:
    """Delays KeyboardInterrupt to the end of the body; a second Ctrl-C ends the process at once."""
    received = []

    def note(*_):
        if received:
            _end("interrupted twice")
        received.append(True)

    with _handled_by(note):
        yield
    if received:
        raise KeyboardInterrupt


@contextlib.contextmanager
def last(seconds: float | None = None) -> Iterator[None]:
    """For shutdown: Ctrl-C in the body ends the process at once, and so does a body that takes longer."""
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
    """Installs `handler` for SIGINT if Ctrl-C would raise KeyboardInterrupt; not in other threads or nested."""
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
    os.write(
        2,
        f"\nerror: {why}; the checkpoint being written is lost; the same command resumes before it\n".encode(),
    )
    os._exit(EXIT_CODE)
