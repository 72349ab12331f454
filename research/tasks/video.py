"""Clips to classes: as pictures to classes, with predictions that are kept."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from research.tasks import classification


@dataclasses.dataclass(frozen=True)
class Task(classification.Task):
    """As classification.Task over clips, whose probabilities are saved and scored class by class."""

    def scorer(self, data: Any, split: str) -> "Scorer":
        """What collects the predictions for a split of `data` (a data.clips.Clips) on the host."""
        return Scorer(data, split)


class Scorer:
    """Collects the class probabilities of a split."""

    def __init__(self, data: Any, split: str):
        self._data, self._split = data, split
        self._probabilities: dict[int, np.ndarray] = {}
        self.signatures: dict[str, str] = {}

    def add(self, outputs: Mapping[str, np.ndarray]) -> None:
        """Takes the outputs of `Task.predict` for a batch, with its `index` and `weight`."""
        for index, weight, row in zip(outputs["index"], outputs["weight"], outputs["probabilities"], strict=True):
            if weight > 0:
                self._probabilities[int(index)] = row

    def result(self) -> dict[str, float]:
        """`balanced_accuracy`, the mean of the recalls of the classes that occur, and `recall_CLASS` of each."""
        lines = self._lines()
        recalls = {}
        for name in self._data.class_names:
            of_class = [line["class"] == line["predicted"] for line in lines if line["class"] == name]
            if of_class:
                recalls[f"recall_{name}"] = float(np.mean(of_class))
        return {"balanced_accuracy": float(np.mean(list(recalls.values()))), **recalls}

    def save(self, path: Path) -> None:
        """Writes a line {"clip", "class", "predicted", "probabilities"} a clip, by the names of the classes."""
        with path.open("w", encoding="utf-8") as file:
            for line in self._lines():
                file.write(json.dumps(line, ensure_ascii=False) + "\n")

    def _lines(self) -> list[dict[str, Any]]:
        lines, names = [], self._data.class_names
        for index, row in sorted(self._probabilities.items()):
            said = {name: round(float(value), 6) for name, value in zip(names, row, strict=True)}
            reference = self._data.reference(self._split, index)
            lines.append({**reference, "predicted": names[int(row.argmax())], "probabilities": said})
        return lines
