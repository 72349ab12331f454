"""The interface of baselines: simple methods with at most one setting, chosen on validation among a few values."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

from research.spec.contracts import Scorer

MOST_VALUES = 4
SEED = 0  # of every random choice
Predict = Callable[[Any], Any]  # from the inputs of a split, as `Kind.scores` passes them, to predictions


@dataclasses.dataclass(frozen=True)
class Baseline:
    """A named method; `fit(value)` fits it on the training split with its hyperparameter `setting` at `value`.

    `note` is a remark for the table, such as that it was fitted on a part of the training split.
    """

    name: str
    fit: Callable[[Any], Predict]
    setting: str = ""
    values: tuple[Any, ...] = (None,)
    note: str = ""

    def __post_init__(self) -> None:
        """Raises ValueError for too many values, since choosing among them could overfit the validation split."""
        if not 1 <= len(self.values) <= MOST_VALUES:
            raise ValueError(f"baseline {self.name!r} has {len(self.values)} values; give 1 to {MOST_VALUES}")


class Scores(NamedTuple):
    """{metric: value}, the signatures of some metrics, and the scorer, which can save the predictions."""

    values: Mapping[str, float]
    signatures: Mapping[str, str]
    scorer: Scorer | None = None


class Kind(Protocol):
    """The baselines of a kind of data, for a task and its data set."""

    def __init__(self, task: Any, data: Any): ...

    def baselines(self) -> list[Baseline]:
        """The methods, simplest first."""
        ...

    def scores(self, split: str, predict: Predict) -> Scores:
        """The task's own metrics and scores of the predictions for a split."""
        ...
