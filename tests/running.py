"""Runs a command of the repository inside the test process, which saves the seconds that starting Python takes."""

import contextlib
import dataclasses
import io
import runpy
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a command ended: its exit code, and what it wrote to standard output and standard error."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line that a refused command prints: exit code 2, no traceback, nothing else on standard error."""
        assert self.code == 2, (self.code, self.out, self.err)
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        assert lines[0].startswith("error: "), self.err
        return lines[0]


def run(argv: Sequence[object]) -> Outcome:
    """`python -m argv[0] argv[1:]` in this process, e.g. `run(["research.data", "prepare", "digits"])`.

    An exception that would end the process with a traceback gives that traceback in `err` and exit code 1. Signal
    handlers are put back. It cannot show what only a process of its own has: kills, signals, `XLA_FLAGS`.
    """
    words = [str(word) for word in argv]
    out, err = io.StringIO(), io.StringIO()
    arguments = sys.argv
    handlers = _handlers()
    code = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*found in sys.modules", category=RuntimeWarning)  # run before
        try:
            sys.argv = [words[0], *words[1:]]
            runpy.run_module(words[0], run_name="__main__", alter_sys=True)
        except SystemExit as left:
            code = _exit_code(left.code)
        except BaseException:  # noqa: BLE001  as the interpreter does at the end of a process
            traceback.print_exc()
            code = 1
        finally:
            sys.argv = arguments
            for number, handler in handlers.items():
                signal.signal(number, handler)
    return Outcome(code, out.getvalue(), err.getvalue())


def _handlers() -> dict[int, object]:
    if threading.current_thread() is not threading.main_thread():
        return {}
    return {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}


def _exit_code(code: object) -> int:
    if isinstance(code, int):
        return code
    if code is None:
        return 0
    print(code, file=sys.stderr)
    return 1
