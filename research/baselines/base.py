"""What a baseline is: a simple method with at most one setting, which validation chooses among a few values."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

MOST_VALUES = 4
SEED = 0  # of every random choice
Predict = Callable[[Any], Any]  # what a kind's `scores` gives of a split, to predictions in the order of its examples


@dataclasses.dataclass(frozen=True)
class Baseline:
    """A method by its `name`; `fit(value)` learns from the training split alone, with its `setting` at `value`.

    `note` says what else somebody needs to know, such as that it was fitted on a part of the training split.
    """

    name: str
    fit: Callable[[Any], Predict]
    setting: str = ""
    values: tuple[Any, ...] = (None,)
    note: str = ""

    def __post_init__(self) -> None:
        """Raises ValueError for so many values that the choice among them could fit validation."""
        if not 1 <= len(self.values) <= MOST_VALUES:
            raise ValueError(f"baseline {self.name!r} has {len(self.values)} values; 1 to {MOST_VALUES} may be tried")


class Scores(NamedTuple):
    """{name of a metric: its value}, and how some of them were computed."""

    values: Mapping[str, float]
    signatures: Mapping[str, str]


class Kind(Protocol):
    """A kind of input with its baselines, made of a task and its data."""

    def __init__(self, task: Any, data: Any): ...

    def baselines(self) -> list[Baseline]:
        """The methods, the simplest first."""
        ...

    def scores(self, split: str, predict: Predict) -> Scores:
        """What the task's own metrics and scorer say of the predictions for a split."""
        ...
