"""Preemption: on SIGTERM, save and exit with code 75, to be restarted. Imports nothing slow, so it can come first."""

import os
import signal
from collections.abc import Callable

EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h: try again later


def exit_on_sigterm(flush: Callable[[], None] = lambda: None) -> None:
    """Makes SIGTERM end the process at once, as long as there is nothing to save.

    `os._exit` rather than an exception: the handler may run inside an XLA compilation, which an exception can crash.
    """

    def leave(*_):
        flush()
        os._exit(EXIT_CODE)

    signal.signal(signal.SIGTERM, leave)


class Flag:
    """Becomes true after SIGTERM; the train and evaluation loops poll it.

    With several processes (`shared`) it becomes true at the same poll on all of them, even if only one received the
    signal. In this case the signal handler is that of `jax.distributed`, which must not be replaced.
    """

    def __init__(self, shared: bool = False):
        self._raised, self._shared, self._ticks = False, shared, 0

    def watch(self) -> None:
        """Makes SIGTERM only raise the flag from now on."""

        def raise_flag(*_):
            self._raised = True

        if not self._shared:
            signal.signal(signal.SIGTERM, raise_flag)

    def poll(self) -> bool:
        """Whether to save and exit. Every process must call it equally often: before each step or batch.

        The processes agree on the tick after the latest one that any of them has polled, so ticks must increase by one
        through training and evaluation, without gaps.
        """
        if self._shared and not self._raised:
            from jax.experimental import multihost_utils  # slow to import, see above

            self._ticks += 1
            self._raised = multihost_utils.reached_preemption_sync_point(self._ticks)
        return self._raised

    def __bool__(self) -> bool:
        return self._raised
