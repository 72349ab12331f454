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


class Failure(Exception):  # noqa: N818  no mistake in the program
    """A failure that is not a user error, such as a full disk: one line, and exit code 1."""


FULL = (errno.ENOSPC, errno.EDQUOT)
# What XLA says on CPU, on GPU and on TPU.
_OUT_OF_MEMORY = ("Out of memory", "out of memory", "RESOURCE_EXHAUSTED")
_BYTES = re.compile(r"allocat\w+ (\d+) bytes")
_LONG = 500  # characters of a word that is repeated in full, such as a path
OVERRIDE = "--config."  # before the name of a field


def overrides_of(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """The overrides of a command line (`train.steps=100`), and its other words. Raises ValueError without a value."""
    overrides = [word.removeprefix(OVERRIDE) for word in argv if word.startswith(OVERRIDE)]
    for override in overrides:
        if "=" not in override:
            raise ValueError(f"{OVERRIDE}{override} has no value; write {OVERRIDE}{override}=VALUE")
    return overrides, [word for word in argv if not word.startswith(OVERRIDE)]


class Parser(argparse.ArgumentParser):
    """Raises ValueError for arguments that do not fit, where argparse would print its usage and leave."""

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
    """Leaves with one line on stderr: 2 for a user's mistake, 1 for a run that diverged or failed, 130 for Ctrl-C.

    A user's mistake is a ValueError that this repository raised itself; one from a library keeps its traceback. What
    the system refuses (a file that is a folder, no permission, a full disk) is a failure, and told with its path.
    Standard output and error may be closed, or lose their reader as in `| head -1`; the exit code is the same.
    """
    # Grain, TFDS and Orbax warn about what is none of a user's; what goes wrong there is raised, and told in one line.
    for name in ("absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    interrupt.raise_on_interrupt()
    with _lasting_streams():
        try:
            yield
        except KeyboardInterrupt:
            _leave("interrupted; the same command goes on where it can", 130)
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
            # A config names its fields in full when it is loaded (config.complete); a model knows its own alone.
            _leave(f"config.{error.below('model')}", 2)
        except ValueError as error:
            if type(error) is not ValueError or not _raised_here(error.__traceback__):
                raise
            _leave(str(error), 2)
        finally:
            atexit.register(interrupt.end_on_interrupt)  # before JAX's own, which take a second
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
def _lasting_streams() -> Iterator[None]:
    """Context manager: output to a closed pipe is dropped. Redirected streams are left alone."""
    _open_closed_descriptors()
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = _lasting(sys.stdout, 1), _lasting(sys.stderr, 2)
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
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free, which is this one


def _lasting(stream: TextIO | None, descriptor: int) -> TextIO:
    if stream is None:  # it was closed when Python began
        return open(os.devnull, "w")
    buffer = getattr(stream, "buffer", None)
    raw = getattr(buffer, "raw", buffer)  # the same where PYTHONUNBUFFERED is set
    if not isinstance(stream, io.TextIOWrapper) or not isinstance(raw, io.FileIO) or raw.fileno() != descriptor:
        return stream
    stream.flush()
    lasting = _Lasting(descriptor, "w", closefd=False)
    binary = lasting if buffer is raw else io.BufferedWriter(lasting)
    return io.TextIOWrapper(
        binary,
        stream.encoding,
        stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


class _Lasting(io.FileIO):
    """A stream that discards output after its reader has closed the pipe."""

    def write(self, data: "ReadableBuffer") -> int | None:
        try:
            return super().write(data)
        except BrokenPipeError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            return memoryview(data).nbytes
