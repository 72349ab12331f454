"""Splits training time into waiting for data and computing steps."""

import contextlib
import dataclasses
import time
from collections.abc import Iterator

from research.measure.timeline import Timeline


@dataclasses.dataclass(frozen=True)
class Speed:
    """Throughput of an interval of training; `data_wait` is the fraction of it spent waiting for the input pipeline."""

    steps_per_s: float = 0.0
    data_wait: float = 0.0

    def values(self, batch_size: int, mfu_of_one: float | None = None) -> dict[str, float]:
        """The values to log; `mfu_of_one` is the MFU at one step per second, None if unknown."""
        values = {
            "steps_per_s": self.steps_per_s,
            "step_time_s": 1 / self.steps_per_s,
            "examples_per_s": self.steps_per_s * batch_size,
            "data_wait": self.data_wait,
        }
        return values if mfu_of_one is None else values | {"mfu": self.steps_per_s * mfu_of_one}


def describe(values: dict[str, float]) -> str:
    """A short line for the progress bar."""
    parts = [f"{values['steps_per_s']:.2f} steps/s", f"{values['examples_per_s']:.0f} examples/s"]
    parts += [f"MFU {values['mfu']:.1%}"] if "mfu" in values else []
    return ", ".join([*parts, f"data wait {values['data_wait']:.0%}"])


class Clock:
    """Measures intervals of training and records them in the timeline."""

    def __init__(self, timeline: Timeline, step: int):
        self._timeline, self._step, self._speed = timeline, step, Speed()
        self.restart()

    def restart(self) -> None:
        """Starts an interval now; excludes preceding compilation, evaluation or saving."""
        self._since, self._waited = time.time(), 0.0

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Context manager: time inside counts as waiting for data."""
        begun = time.time()
        yield
        self._waited += time.time() - begun

    def enter(self, step: int) -> Speed:
        """Ends the current interval at `step` and returns its speed."""
        if step > self._step:
            seconds = time.time() - self._since
            self._timeline.add("data", self._since, self._waited, step)
            self._timeline.add("step", self._since + self._waited, seconds - self._waited, step)
            self._speed = Speed((step - self._step) / seconds, self._waited / seconds)
            self._step = step
            self.restart()
        return self._speed
