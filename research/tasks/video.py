"""Video classification: as image classification, with scores per class."""

import dataclasses

import numpy as np

from research.spec.contracts import ClassDataset
from research.tasks import classification


@dataclasses.dataclass(frozen=True)
class VideoTask(classification.LabelTask):
    """As classification.LabelTask over clips, with scores per class."""

    served = "clips"

    def scorer(self, data: ClassDataset, split: str) -> "ClipScorer":
        """The scorer of predictions for a split of `data` (a ClipDataset), which runs on the host."""
        return ClipScorer(data, split)


class ClipScorer(classification.ClassificationScorer):
    """Collects the class probabilities of a split, and scores each class."""

    def result(self) -> dict[str, float]:
        """`balanced_accuracy`, the mean recall over the classes that occur, and the recall `recall_CLASS` of each."""
        lines = self.lines()
        recalls = {}
        for name in self._data.class_names:
            of_class = [line["class"] == line["predicted"] for line in lines if line["class"] == name]
            if of_class:
                recalls[f"recall_{name}"] = float(np.mean(of_class))
        return {"balanced_accuracy": float(np.mean(list(recalls.values()))), **recalls}
