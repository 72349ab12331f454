"""What every command of Tessera shares: a user's mistake becomes one line on stderr and an exit code."""

import argparse
import contextlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import NoReturn

from research import numerics

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
    """What a command runs in: `one_line_errors`, with XLA shielded before JAX starts."""
    numerics.shield()
    with one_line_errors():
        yield


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Leaves with one line on stderr: 2 for a user's mistake, 1 for a run that diverged, 130 for Ctrl-C.

    A user's mistake is a ValueError that this repository raised itself; one from a library keeps its traceback.
    """
    try:
        yield
    except KeyboardInterrupt:
        _leave("interrupted; the same command goes on where it can", 130)
    except FloatingPointError as error:
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
