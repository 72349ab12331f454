"""Event loops for Orbax, which closes its loop as soon as one of several reads or writes fails."""

import asyncio
import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def drained() -> Iterator[None]:
    """Makes event loops created in the body wait for their tasks before they close.

    TensorStore notifies a loop of every read from its own threads, and prints a traceback if the loop is closed. A
    write that is never awaited prints one when Python exits.
    """
    before = asyncio.get_event_loop_policy()
    asyncio.set_event_loop_policy(_Policy())
    try:
        yield
    finally:
        asyncio.set_event_loop_policy(before)


class _Loop(asyncio.SelectorEventLoop):
    def close(self) -> None:
        if not self.is_closed() and not self.is_running() and (tasks := asyncio.all_tasks(self)):
            self.run_until_complete(asyncio.wait(tasks))
            for task in tasks:
                if not task.cancelled():
                    task.exception()  # retrieved, to avoid a warning
        super().close()


class _Policy(asyncio.DefaultEventLoopPolicy):
    _loop_factory = _Loop
