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
    """Becomes true when SIGTERM has come; the train and evaluation loops poll it.

    On several processes (`shared`) it becomes true at the same poll on all of them, whichever got the signal. There
    `jax.distributed` has put a handler of its own in place, which a handler from here would only replace.
    """

    def __init__(self, shared: bool = False):
        self._raised, self._shared, self._ticks = False, shared, 0

    def watch(self) -> None:
        """From now on SIGTERM only raises the flag."""

        def raise_flag(*_):
            self._raised = True

        if not self._shared:
            signal.signal(signal.SIGTERM, raise_flag)

    def poll(self) -> bool:
        """Whether to save and leave. Every process must call it equally often: before each step or batch it works on.

        The processes agree on the tick after the latest that any of them has polled, so ticks count up by one,
        through training and evaluation alike, and none is left out.
        """
        if self._shared and not self._raised:
            from jax.experimental import multihost_utils  # here, because this module comes before the slow imports

            self._ticks += 1
            self._raised = multihost_utils.reached_preemption_sync_point(self._ticks)
        return self._raised

    def __bool__(self) -> bool:
        return self._raised
