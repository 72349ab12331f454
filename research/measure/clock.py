"""Splits the time of training into waiting for data and stepping."""

import contextlib
import time
from collections.abc import Iterator

from research.measure.timeline import Timeline


class Clock:
    """Enters stretches of training into the time ledger."""

    def __init__(self, timeline: Timeline, step: int):
        self._timeline, self._step, self._rate = timeline, step, 0.0
        self.restart()

    def restart(self) -> None:
        """Begins a stretch now: what came before was compiling, evaluating or saving."""
        self._since, self._waited = time.time(), 0.0

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """The time of the body counts as waiting for data."""
        begun = time.time()
        yield
        self._waited += time.time() - begun

    def enter(self, step: int) -> float:
        """Enters the stretch that ends now, at `step`; returns its steps per second."""
        if step > self._step:
            seconds = time.time() - self._since
            self._timeline.add("data", self._since, self._waited, step)
            self._timeline.add("step", self._since + self._waited, seconds - self._waited, step)
            self._rate = (step - self._step) / seconds
            self._step = step
            self.restart()
        return self._rate
