"""Event loops for Orbax, which closes its own as soon as one of many reads or writes has failed."""

import asyncio
import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def drained() -> Iterator[None]:
    """Event loops that are made in the body close only when all that runs in them has ended.

    TensorStore tells a loop about every read from its own threads, and prints a traceback where it is closed already.
    A write that nobody awaits any more prints one when Python ends.
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
                    task.exception()  # retrieved, so that nobody complains that it never was
        super().close()


class _Policy(asyncio.DefaultEventLoopPolicy):
    _loop_factory = _Loop
