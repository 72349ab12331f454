"""Weights & Biases. Its own environment variables apply: WANDB_MODE, WANDB_PROJECT, WANDB_ENTITY, WANDB_API_KEY, ..."""

import os
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from research.tracking.base import Histogram, TrackedRun

PROJECT = "tessera"  # unless WANDB_PROJECT names another one
_STEP = "step"
_ADVICE = "run `wandb login`, or set WANDB_MODE=offline"


class WeightsAndBiases:
    """See base.Tracker. Local files are in the folder `wandb` of the run.

    Values are plotted over their own `step`, not over W&B's counter of calls, which refuses steps that a resumed run
    repeats.
    """

    def __init__(self, run: TrackedRun):
        import wandb  # pyright: ignore[reportMissingImports]

        self._wandb: Any = wandb
        name = run.known_id("wandb")
        # The id is ours and stored first, so that a run that is killed while it begins is continued, too.
        if name is None:
            name = secrets.token_hex(4)
            run.keep_id("wandb", name)
        settings = wandb.Settings(console="off", silent=True, save_code=False)  # no capture of output, no code
        self._run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT), dir=str(run.folder), id=name, name=run.name,
            resume=None if _is_offline() else "allow", config=dict(run.config), settings=settings,
        )  # fmt: skip
        self._run.define_metric(_STEP, hidden=True)
        self._run.define_metric("*", step_metric=_STEP)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """See Tracker.scalars."""
        self._run.log({**values, _STEP: step})

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        """See Tracker.image."""
        self._run.log({name: self._wandb.Image(image), _STEP: step})

    def histograms(self, step: int, values: Mapping[str, Histogram]) -> None:
        """See Tracker.histograms."""
        made = {name: self._wandb.Histogram(np_histogram=tuple(each)) for name, each in values.items()}
        self._run.log({**made, _STEP: step})

    def texts(self, step: int, name: str, texts: Sequence[str]) -> None:
        """See Tracker.texts."""
        table = self._wandb.Table(columns=["example", "text"], data=[list(row) for row in enumerate(texts)])
        self._run.log({name: table, _STEP: step})

    def flush(self) -> None:
        """Does nothing: a process of W&B writes and sends everything at once."""

    def close(self, finished: bool) -> None:
        """See Tracker.close; an unfinished run is listed as failed until it is resumed."""
        self._run.finish(exit_code=0 if finished else 1)


def check_login() -> None:
    """Logs in, which asks for an API key on a terminal. Raises ValueError without one; the network is not needed."""
    if _is_offline():
        return
    import wandb  # pyright: ignore[reportMissingImports]

    try:
        known = wandb.login(verify=False)
    except Exception as error:  # noqa: BLE001  a private type in some versions
        why = " ".join(str(error).split())[:100]
        raise ValueError(f"config.train.trackers has 'wandb', but there is no API key ({why}); {_ADVICE}") from None
    if not known and not _is_offline():
        raise ValueError(f"config.train.trackers has 'wandb', but there is no API key; {_ADVICE}")


def _is_offline() -> bool:
    """Whether nothing is sent, which WANDB_MODE says."""
    return os.environ.get("WANDB_MODE", "online") in ("offline", "dryrun", "disabled")
