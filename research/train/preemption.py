"""SIGTERM: save, leave with 75, be started again. This module imports nothing slow, so that it can come first."""

import os
import signal
from collections.abc import Callable

EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h: try again later


def exit_on_sigterm(flush: Callable[[], None] = lambda: None) -> None:
    """Until there is something to save, SIGTERM ends the process at once.

    `os._exit` rather than an exception: the handler may run inside an XLA compilation, which an exception can crash.
    """

    def leave(*_):
        flush()
        os._exit(EXIT_CODE)

    signal.signal(signal.SIGTERM, leave)


class Flag:
    """Becomes true when SIGTERM has come; the train and evaluation loops poll it."""

    def __init__(self):
        self._raised = False

    def watch(self) -> None:
        """From now on SIGTERM only raises the flag."""

        def raise_flag(*_):
            self._raised = True

        signal.signal(signal.SIGTERM, raise_flag)

    def __bool__(self) -> bool:
        return self._raised
