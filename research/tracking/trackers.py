"""The trackers of a run as one. None of them can stop or delay a training."""

import functools
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from research.tracking.base import Histogram, TrackedRun, Tracker

MOST_WAITING = 10_000  # entries; a tracker that is further behind loses the next ones
RETRY_S = 60.0  # for how long nothing is sent to a tracker that has failed
CLOSE_S = 60.0  # for how long the end of a run waits for a tracker
STOP_S = 5.0  # the same for a run that will be resumed, such as after SIGTERM, when little time is left
_LOCAL = ("tensorboard",)  # these write files only, at once; all others have threads of their own


def opened(name: str, run: TrackedRun) -> Tracker:
    """The tracker `name` of a run; only now its package is imported."""
    if name == "tensorboard":
        from research.tracking.tensorboard import TensorBoard

        return TensorBoard(run)
    if name == "wandb":
        from research.tracking.weights_and_biases import WeightsAndBiases

        return WeightsAndBiases(run)
    from research.tracking.mlflow_tracker import MLflow

    return MLflow(run)


class Trackers:
    """Sends everything to each of the trackers `names`.

    The first error of a tracker (no network, a full disk) is one warning. It then gets nothing for RETRY_S seconds,
    after which it is tried again.
    """

    def __init__(
        self,
        names: Sequence[str],
        run: TrackedRun,
        warn: Callable[[str], None],
        open_one: Callable[[str, TrackedRun], Tracker] = opened,
    ):
        self._senders = [
            _Sender(name, functools.partial(open_one, name, run), warn, threaded=name not in _LOCAL) for name in names
        ]

    def __bool__(self) -> bool:
        return bool(self._senders)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Logs `{name: value}`; values that are not finite are left out."""
        self._send("scalars", step, {name: value for name, value in values.items() if np.isfinite(value)})

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        """Logs an RGB image, uint8 [height, width, 3]."""
        self._send("image", step, name, image)

    def histograms(self, step: int, values: Mapping[str, Histogram]) -> None:
        """Logs `{name: histogram}`."""
        self._send("histograms", step, values)

    def texts(self, step: int, name: str, texts: Sequence[str]) -> None:
        """Logs texts, one for each example."""
        self._send("texts", step, name, texts)

    def flush(self) -> None:
        """Writes to disk what local trackers have buffered; it waits for no network."""
        for sender in self._senders:
            if not sender.threaded and sender.begun:
                sender.send("flush")

    def close(self, finished: bool) -> None:
        """Waits until everything has been sent, up to CLOSE_S or STOP_S seconds, and closes the trackers."""
        seconds = CLOSE_S if finished else STOP_S
        deadline = time.monotonic() + seconds
        for sender in self._senders:
            sender.end(finished)
        for sender in self._senders:
            if not sender.ended(deadline):
                sender.complain(f"was not done within {seconds:.0f} s after the end")

    def _send(self, method: str, *arguments: Any) -> None:
        for sender in self._senders:
            sender.send(method, *arguments)


class _Sender:
    """Calls the methods of one tracker, `threaded` in a thread of its own, and survives its errors."""

    def __init__(self, name: str, open_it: Callable[[], Tracker], warn: Callable[[str], None], threaded: bool):
        self.threaded, self.begun = threaded, False
        self._name, self._open, self._warn = name, open_it, warn
        self._tracker: Tracker | None = None
        self._warned, self._silent_until = False, 0.0
        # Unlike a Queue, it can be filled by a signal handler that interrupts another `put`.
        self._waiting: queue.SimpleQueue[tuple[str, tuple[Any, ...]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=f"tracker {name}", daemon=True)

    def send(self, method: str, *arguments: Any) -> None:
        """Calls a method of the tracker, now or soon."""
        if not self.threaded:
            self.begun = True
            return self._call(method, arguments)
        if not self.begun:
            self.begun = True
            self._thread.start()
        if self._waiting.qsize() < MOST_WAITING:
            self._waiting.put((method, arguments))
        else:
            self.complain(f"is {MOST_WAITING} entries behind")

    def end(self, finished: bool) -> None:
        """Closes the tracker after everything else; does nothing if nothing was sent."""
        if not self.begun:
            return
        if not self.threaded:
            return self._call("close", (finished,))
        self._waiting.put(("close", (finished,)))
        self._waiting.put(None)

    def ended(self, deadline: float) -> bool:
        """Whether everything has been sent by `deadline`, until which it waits."""
        if self.threaded and self.begun:
            self._thread.join(max(deadline - time.monotonic(), 0.0))
        return not self._thread.is_alive()

    def _work(self) -> None:
        while (entry := self._waiting.get()) is not None:
            self._call(*entry)

    def _call(self, method: str, arguments: tuple[Any, ...]) -> None:
        if time.monotonic() < self._silent_until:
            return
        try:
            if self._tracker is None:
                if method == "close":
                    return
                self._tracker = self._open()
            getattr(self._tracker, method)(*arguments)
        except Exception as error:  # noqa: BLE001  whatever a tracker or its network raises
            self._silent_until = time.monotonic() + RETRY_S
            self.complain(f"failed ({_brief(error)})")

    def complain(self, what: str) -> None:
        """Warns, once."""
        if not self._warned:
            self._warned = True
            self._warn(f"the tracker {self._name} {what}; the run goes on, and some of its entries are missing there")


def _brief(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
