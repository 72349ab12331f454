"""Splits the time of training into waiting for data and stepping."""

import contextlib
import dataclasses
import time
from collections.abc import Iterator

from research.measure.timeline import Timeline


@dataclasses.dataclass(frozen=True)
class Speed:
    """How fast a stretch of training was; `data_wait` is the share of its time that waited for the input pipeline."""

    steps_per_s: float = 0.0
    data_wait: float = 0.0

    def values(self, batch_size: int, mfu_of_one: float | None = None) -> dict[str, float]:
        """What the metrics hold; `mfu_of_one` is the MFU at one step a second, None where it is unknown."""
        values = {
            "steps_per_s": self.steps_per_s,
            "step_time_s": 1 / self.steps_per_s,
            "examples_per_s": self.steps_per_s * batch_size,
            "data_wait": self.data_wait,
        }
        return values if mfu_of_one is None else values | {"mfu": self.steps_per_s * mfu_of_one}


def describe(values: dict[str, float]) -> str:
    """One short line for the progress bar."""
    parts = [f"{values['steps_per_s']:.2f} steps/s", f"{values['examples_per_s']:.0f} examples/s"]
    parts += [f"MFU {values['mfu']:.1%}"] if "mfu" in values else []
    return ", ".join([*parts, f"data wait {values['data_wait']:.0%}"])


class Clock:
    """Enters stretches of training into the time ledger."""

    def __init__(self, timeline: Timeline, step: int):
        self._timeline, self._step, self._speed = timeline, step, Speed()
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

    def enter(self, step: int) -> Speed:
        """Enters the stretch that ends now, at `step`; returns its speed."""
        if step > self._step:
            seconds = time.time() - self._since
            self._timeline.add("data", self._since, self._waited, step)
            self._timeline.add("step", self._since + self._waited, seconds - self._waited, step)
            self._speed = Speed((step - self._step) / seconds, self._waited / seconds)
            self._step = step
            self.restart()
        return self._speed
