"""Shared by all commands: user errors become one line on stderr and an exit code."""

import argparse
import atexit
import contextlib
import errno
import io
import logging
import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, NoReturn, TextIO

from research import interrupt, numerics
from research.measure import progress
from research.spec import FieldError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


class Failure(Exception):  # noqa: N818  not a bug in the program
    """A failure that is not a user error, such as a full disk: one line, and exit code 1."""


FULL = (errno.ENOSPC, errno.EDQUOT)
# In XLA's messages on CPU, GPU and TPU.
_OUT_OF_MEMORY = ("Out of memory", "out of memory", "RESOURCE_EXHAUSTED")
_BYTES = re.compile(r"allocat\w+ (\d+) bytes")
_LONG = 500  # characters of a word that is repeated in full, such as a path
OVERRIDE = "--config."  # before the name of a field


def overrides_of(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Splits a command line into overrides (`train.steps=100`) and other arguments.

    Raises ValueError for an override without a value.
    """
    overrides = [word.removeprefix(OVERRIDE) for word in argv if word.startswith(OVERRIDE)]
    for override in overrides:
        if "=" not in override:
            raise ValueError(f"{OVERRIDE}{override} has no value; write {OVERRIDE}{override}=VALUE")
    return overrides, [word for word in argv if not word.startswith(OVERRIDE)]


class Parser(argparse.ArgumentParser):
    """Raises ValueError for invalid arguments, where argparse would print its usage and exit."""

    def error(self, message: str) -> NoReturn:
        """Raises the ValueError."""
        raise ValueError(f"{message}; see --help")


@contextlib.contextmanager
def begin() -> Iterator[None]:
    """Context manager around every command: `one_line_errors`, with XLA flags set before JAX starts."""
    numerics.shield()
    with one_line_errors():
        yield


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Context manager that turns errors into one line on stderr and an exit code.

    2 for a user error, 1 for a run that diverged or failed, 130 for Ctrl-C. A user error is a ValueError raised by this
    repository; one raised by a library keeps its traceback. An OSError (a file that is a folder, no permission, a full
    disk) is a failure, and is reported with its path. The exit code is the same if standard output or error is closed,
    or loses its reader as in `| head -1`.
    """
    # Grain, TFDS and Orbax log warnings that do not concern users; their errors are raised, and reported in one line.
    for name in ("absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    interrupt.raise_on_interrupt()
    with _pipe_safe_streams():
        try:
            yield
        except KeyboardInterrupt:
            _leave("interrupted; the same command resumes the work if it can be resumed", 130)
        except (FloatingPointError, Failure) as error:
            _leave(str(error), 1)
        except (MemoryError, RuntimeError) as error:
            if not isinstance(error, MemoryError) and not any(words in str(error) for words in _OUT_OF_MEMORY):
                raise
            needed = _BYTES.search(str(error))
            _leave(
                f"out of memory{f', {int(needed[1]):,} bytes are needed at once' if needed else ''}; a smaller "
                "config.train.batch_size, image size or model needs less, and so does config.mesh.fsdp on more devices",
                1,
            )
        except OSError as error:
            if error.filename is None and error.errno not in FULL:
                raise
            _leave(f"{error.filename or 'cannot write'}: {error.strerror or error}", 1)
        except FieldError as error:
            # Loading a config gives full field paths (config.complete); errors of a model name only their own field.
            _leave(f"config.{error.below('model')}", 2)
        except ValueError as error:
            if type(error) is not ValueError or not _raised_here(error.__traceback__):
                raise
            _leave(str(error), 2)
        finally:
            atexit.register(interrupt.end_on_interrupt)  # runs before JAX's handlers, which take a second
            progress.close_all()


def _leave(message: str, code: int) -> NoReturn:
    interrupt.end_on_interrupt()
    progress.close_all()
    words = (word if len(word) <= _LONG else f"{word[:80]}...({len(word):,} characters)" for word in message.split())
    print("error: " + " ".join(words), file=sys.stderr)
    sys.exit(code)


def _raised_here(traceback: TracebackType | None) -> bool:
    while traceback and traceback.tb_next:
        traceback = traceback.tb_next
    if traceback is None:
        return False
    file = Path(traceback.tb_frame.f_code.co_filename).resolve()
    return Path(__file__).resolve().parents[1] in file.parents and "site-packages" not in file.parts


@contextlib.contextmanager
def _pipe_safe_streams() -> Iterator[None]:
    """Context manager: output to a closed pipe is dropped. Redirected streams are left alone."""
    _open_closed_descriptors()
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = _pipe_safe(sys.stdout, 1), _pipe_safe(sys.stderr, 2)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        sys.stdout, sys.stderr = (mine or theirs for mine, theirs in zip(before, (sys.stdout, sys.stderr), strict=True))


def _open_closed_descriptors() -> None:
    """Opens closed standard descriptors on /dev/null; otherwise the next file opened would become standard error."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free descriptor, which is this one


def _pipe_safe(stream: TextIO | None, descriptor: int) -> TextIO:
    if stream is None:  # it was closed when Python started
        return open(os.devnull, "w")
    buffer = getattr(stream, "buffer", None)
    raw = getattr(buffer, "raw", buffer)  # the same where PYTHONUNBUFFERED is set
    if not isinstance(stream, io.TextIOWrapper) or not isinstance(raw, io.FileIO) or raw.fileno() != descriptor:
        return stream
    stream.flush()
    safe = _PipeSafe(descriptor, "w", closefd=False)
    binary = safe if buffer is raw else io.BufferedWriter(safe)
    return io.TextIOWrapper(
        binary,
        stream.encoding,
        stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


class _PipeSafe(io.FileIO):
    """A stream that discards output after its reader has closed the pipe."""

    def write(self, data: "ReadableBuffer") -> int | None:
        try:
            return super().write(data)
        except BrokenPipeError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            return memoryview(data).nbytes
