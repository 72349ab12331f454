"""Scores the predictions of baselines by the metrics and the scorer of the task."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from research.baselines.base import Predict, Scores
from research.metrics import answers
from research.tasks.span_extraction import SpanExtractionTask


@dataclasses.dataclass(frozen=True)
class Given:
    """Replaces the model of a task by fixed logits, which are passed as its variables."""

    num_classes: int

    def apply(self, variables: np.ndarray, *inputs: Any, **options: Any) -> np.ndarray:
        """The logits."""
        return variables


def labelled(task: Any, data: Any, split: str, classes: np.ndarray) -> Scores:
    """The accuracy and further scores of the predicted `classes` [examples] of a split.

    There is no loss, since the predictions have no probabilities.
    """
    index = np.arange(data.counts[split], dtype=np.int32)
    logits = np.eye(data.num_classes, dtype=np.float32)[classes]
    unused = np.zeros((len(index), *(1,) * (len(data.image_shape) - 1), data.image_shape[-1]), np.uint8)
    weight = np.ones(len(index), np.float32)
    batch = {"image": unused, "label": labels(data, split), "index": index, "weight": weight}
    means = dataclasses.replace(task, model=Given(data.num_classes)).evaluate(logits, batch)
    scorer = task.scorer(data, split)
    scorer.add({"index": index, "weight": weight, "probabilities": logits})
    right, weights = means["accuracy"]
    return Scores({"accuracy": float(right / weights), **scorer.result()}, scorer.signatures, scorer)


def labels(data: Any, split: str) -> np.ndarray:
    """The classes of the examples of a split of labelled images, int32 [examples]."""
    numbers = {name: number for number, name in enumerate(data.class_names)}
    references = (data.reference(split, index) for index in range(data.counts[split]))
    return np.array([numbers[reference["class"]] for reference in references], np.int32)


class LabelledBaselines:
    """Base class for labelled images and clips: features of a split, and scores of predicted classes."""

    def __init__(self, task: Any, data: Any):
        self._task, self._data = task, data
        self._made: dict[str, Mapping[str, np.ndarray]] = {}

    def features(self, split: str) -> Mapping[str, np.ndarray]:
        """Arrays [examples, features] by name, computed once."""
        if split not in self._made:
            self._made[split] = self.make_features(split)
        return self._made[split]

    def make_features(self, split: str) -> Mapping[str, np.ndarray]:
        """See `features`."""
        raise NotImplementedError

    def scores(self, split: str, predict: Predict) -> Scores:
        """Scores the predicted class of each example."""
        return labelled(self._task, self._data, split, predict(self.features(split)))


def named(task: Any, data: Any, split: str, texts: Sequence[str]) -> Scores:
    """The accuracy of predicted class names `texts`, one for each example of a split, computed by the task."""
    numbers = {name: number for number, name in enumerate(data.class_names)}
    targets = [numbers[data.reference(split, index)["target"]] for index in range(len(texts))]
    found = np.eye(len(numbers), dtype=np.float32)[[numbers[text] for text in texts]][:, None]
    weight = np.ones(len(texts), np.float32)
    batch = {"target": np.array(targets, np.int32)[:, None], "target_segments": np.ones((len(texts), 1), np.int32)}
    unused = dict.fromkeys(("source", "source_segments", "source_positions"))
    means = dataclasses.replace(task, model=Given(len(numbers))).evaluate(found, {**batch, **unused, "weight": weight})
    right, weights = means["accuracy"]
    scorer = task.scorer(data, split)
    scorer.add({"index": np.arange(len(texts)), "weight": weight, "probabilities": found[:, 0]})
    return Scores({"accuracy": float(right / weights)}, scorer.signatures, scorer)


def written(task: Any, data: Any, split: str, texts: Sequence[str]) -> Scores:
    """Scores the predicted `texts`, one for each example of a split.

    If the model generates tokens, texts are encoded with its vocabulary and decoded, so that they hold only what the
    model could generate; if it extracts spans of the context, they are scored unchanged.

    Raises ValueError for a task without metrics.
    """
    if not task.spec.metrics:
        raise ValueError("config.task.metrics=() is empty, so no baseline can be scored; name a metric")
    scorer = answers.TextScorer(task.spec.metrics, data, split)
    if isinstance(task, SpanExtractionTask):
        scorer.add_texts(dict(enumerate(texts)))
    else:
        tokens = [np.array([ids], np.int32) for ids in data.vocabulary.encode_many(list(texts))]
        outputs: Any = {"index": np.arange(len(texts)), "weight": np.ones(len(texts)), "tokens": tokens}  # any lengths
        scorer.add(outputs)
    return Scores(scorer.result(), scorer.signatures, scorer)
