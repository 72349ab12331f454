"""Ctrl-C without a traceback where no work would be lost. It imports nothing slow, so it can be imported first."""

import signal
import threading


def end_on_interrupt() -> None:
    """Ctrl-C ends the process with no traceback: while it imports, or when nothing is left to do but to end.

    Inside of `command.one_line_errors` it raises KeyboardInterrupt again.
    """
    ours = threading.current_thread() is threading.main_thread()
    if ours and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def raise_on_interrupt() -> None:
    """Undoes `end_on_interrupt`."""
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) == signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
