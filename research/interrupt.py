"""Ctrl-C without a traceback while no work can be lost. Imports nothing slow, so that it can be imported first."""

import signal
import threading


def end_on_interrupt() -> None:
    """Makes Ctrl-C end the process without a traceback, for the time of imports and of shutdown.

    Within `command.one_line_errors`, Ctrl-C raises KeyboardInterrupt again.
    """
    ours = threading.current_thread() is threading.main_thread()
    if ours and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def raise_on_interrupt() -> None:
    """Undoes `end_on_interrupt`."""
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) == signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
