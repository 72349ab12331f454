"""The interface of trackers, and what each of them is told about its run."""

import dataclasses
import importlib.util
import json
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from jaxtyping import Shaped

from research import files

NAMES = ("tensorboard", "wandb", "mlflow")
IDS = "trackers.json"  # in a run directory: {tracker: the id of this run there}, so that a resumed run continues it
_PACKAGES = {"tensorboard": "tensorboardX", "wandb": "wandb", "mlflow": "mlflow"}
_writing = threading.Lock()  # trackers work in threads of their own


class Histogram(NamedTuple):
    """The numbers of values `counts` [bins] between consecutive `edges` [bins + 1]."""

    counts: np.ndarray
    edges: np.ndarray


@dataclasses.dataclass(frozen=True)
class TrackedRun:
    """A run that is tracked.

    folder        its local folder, in which trackers may write
    name          the name under which it is listed
    config        its config as plain values
    first_step    the first step that is written now; an earlier start may have written later ones, which are void
    """

    folder: Path
    name: str
    config: Mapping[str, Any]
    first_step: int = 0

    def known_id(self, tracker: str) -> str | None:
        """The id of this run in a tracker; None if it is new there."""
        try:
            content = json.loads((self.folder / IDS).read_bytes())
            return str(content[tracker])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def keep_id(self, tracker: str, value: str) -> None:
        """Stores the id of this run in a tracker."""
        with _writing:
            others = {name: known for name in NAMES if (known := self.known_id(name)) is not None}
            files.write_atomically(self.folder / IDS, json.dumps(others | {tracker: value}) + "\n")


class Tracker(Protocol):
    """Shows what a run measures. Its constructor takes a TrackedRun; any method may raise, see trackers.Trackers."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Logs `{name: value}`; every value is finite."""
        ...

    def image(self, step: int, name: str, image: Shaped[np.ndarray, "height width 3"]) -> None:
        """Logs an RGB image, uint8; figures are rendered to one."""
        ...

    def histograms(self, step: int, values: Mapping[str, Histogram]) -> None:
        """Logs `{name: histogram}`."""
        ...

    def texts(self, step: int, name: str, texts: Sequence[str]) -> None:
        """Logs texts, one for each example."""
        ...

    def flush(self) -> None:
        """Writes to disk what is local and buffered."""
        ...

    def close(self, finished: bool) -> None:
        """Ends the tracking; the run has `finished`, or will be resumed."""
        ...


def check(names: Sequence[str], login: bool) -> None:
    """Raises ValueError if the package of a tracker is not installed or, with `login`, if it has no API key."""
    for name in names:
        if importlib.util.find_spec(_PACKAGES[name]) is None:
            raise ValueError(
                f"config.train.trackers has {name!r}, which needs the package {_PACKAGES[name]}; install Tessera with "
                "the extra [trackers], or leave it out"
            )
    if "wandb" in names and login:
        from research.tracking import weights_and_biases

        weights_and_biases.check_login()
