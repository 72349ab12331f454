"""Scores predicted texts of a split against their references."""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from jaxtyping import Int

from research.metrics import text_scores
from research.spec.contracts import Dataset, HostOutputs

_GROUPED = ("accuracy_task_", "wer_speaker_")  # the prefixes of scores of groups of examples


class Decoder(Protocol):
    """The part of a vocabulary that decoding needs."""

    def decode(self, ids: Int[np.ndarray, " length"]) -> str:
        """The text of token ids."""
        ...


class TextDataset(Dataset, Protocol):
    """A data set whose targets are tokens; its references hold `references`, the accepted texts."""

    @property
    def vocabulary(self) -> Decoder:
        """Converts ids to text."""
        ...


_EXAMPLE = {"references": ("a text",), "task": 1, "speaker": "a"}  # with all fields that metrics read


def check_gives(metrics: Sequence[str], name: str, means: Collection[str]) -> None:
    """Raises ValueError if neither `metrics` nor the `means` of an evaluation include the score `name`.

    The names of a metric's scores are found by scoring an example, except for those of groups of examples.
    """
    known = set(means)
    for metric in metrics:
        known |= text_scores.METRICS[metric](_EXAMPLE["references"], [_EXAMPLE])[0].keys()
        if metric in text_scores.NEEDED and name.startswith(_GROUPED):
            return
    if name not in known:
        raise ValueError(
            f"config.task.select_by={name!r} is not a score of config.task.metrics; choose from "
            f"{', '.join(sorted(known))}"
        )


class TextScorer:
    """Collects the best prediction for each example of a split, as text, and scores it against the references."""

    def __init__(
        self,
        metrics: tuple[str, ...],
        data: TextDataset,
        split: str,
        probability: Callable[[HostOutputs], np.ndarray] | None = None,
    ):
        """`probability` gives those of the best texts [batch] from the outputs of a task's `predict`.

        Raises ValueError for a metric that needs a field the examples lack.
        """
        self._metrics, self._data, self._split = metrics, data, split
        for metric in metrics:
            field = text_scores.NEEDED.get(metric)
            if field and data.reference(split, 0).get(field) in (None, ""):
                raise ValueError(
                    f"the metric {metric} needs a data set whose examples have the field {field}; remove it from "
                    "config.task.metrics"
                )
        self._answers: dict[int, str] = {}
        self._probability, self._probabilities = probability, dict[int, float]()
        self.signatures: dict[str, str] = {}  # {name of a score: how it was computed}, once there is a result

    def add(self, outputs: HostOutputs) -> None:
        """Adds the outputs of a task's `predict` for a batch, with its `index` and `weight`."""
        real = np.flatnonzero(outputs["weight"] > 0)
        for row in real:
            self._answers[int(outputs["index"][row])] = self._data.vocabulary.decode(outputs["tokens"][row][0])
        if self._probability:
            found = self._probability(outputs)
            self._probabilities |= {int(outputs["index"][row]): float(f"{found[row]:.6g}") for row in real}

    def add_texts(self, texts: Mapping[int, str]) -> None:
        """Adds predictions {index: text} that are already decoded."""
        self._answers |= texts

    def result(self) -> dict[str, float]:
        """{score: value} over all predictions."""
        entries, found = self._entries(), {}
        predictions = [entry["prediction"] for entry in entries]
        for metric in self._metrics:
            scores, signature = text_scores.METRICS[metric](predictions, entries)
            found |= scores
            self.signatures |= dict.fromkeys(scores, signature)
        return found

    def save(self, path: Path) -> None:
        """Writes a line per example, from which scores can be recomputed.

        {"index", "prediction", "references"}, and "probability" of the text where the task gives one.
        """
        with path.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(entry, ensure_ascii=False) + "\n" for entry in self._entries())

    def _entries(self) -> list[dict[str, Any]]:
        """The predictions in the order of their examples, with the fields that metrics read."""
        entries = []
        for index, answer in sorted(self._answers.items()):
            example = self._data.reference(self._split, index)
            fields = {field: example[field] for field in text_scores.FIELDS if field in example}
            known = {"probability": self._probabilities[index]} if index in self._probabilities else {}
            entries.append({"index": index, "prediction": answer, **known, **fields})
        return entries
