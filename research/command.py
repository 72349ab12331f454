"""What every command of Tessera shares: a user's mistake becomes one line on stderr and an exit code."""

import argparse
import contextlib
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import NoReturn

from research import numerics


class Failure(Exception):  # noqa: N818  no mistake in the program
    """What ended a run though nobody gave it anything wrong, such as a full disk: one line, and exit code 1."""


class Parser(argparse.ArgumentParser):
    """Raises ValueError for arguments that do not fit, where argparse would print its usage and leave."""

    def error(self, message: str) -> NoReturn:
        """Raises the ValueError."""
        raise ValueError(f"{message}; see --help")


def quiet() -> None:
    """No words of Orbax and asyncio on standard error: what goes wrong there is raised, and told in one line."""
    for name in ("absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


@contextlib.contextmanager
def begin() -> Iterator[None]:
    """What a command runs in: `one_line_errors`, with XLA shielded before JAX starts."""
    numerics.shield()
    with one_line_errors():
        yield


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Leaves with one line on stderr: 2 for a user's mistake, 1 for a run that diverged or failed, 130 for Ctrl-C.

    A user's mistake is a ValueError that this repository raised itself; one from a library keeps its traceback.
    """
    try:
        yield
    except KeyboardInterrupt:
        _leave("interrupted; the same command goes on where it can", 130)
    except (FloatingPointError, Failure) as error:
        _leave(str(error), 1)
    except ValueError as error:
        if type(error) is not ValueError or not _raised_here(error.__traceback__):
            raise
        _leave(str(error), 2)


def _leave(message: str, code: int) -> NoReturn:
    print("error: " + " ".join(message.split()), file=sys.stderr)
    sys.exit(code)


def _raised_here(traceback: TracebackType) -> bool:
    while traceback.tb_next:
        traceback = traceback.tb_next
    file = Path(traceback.tb_frame.f_code.co_filename).resolve()
    return Path(__file__).resolve().parents[1] in file.parents and "site-packages" not in file.parts
