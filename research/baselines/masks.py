"""Segmentation baselines: the class of each pixel from its position, its colour, or both."""

import dataclasses
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

import numpy as np

from research.baselines.base import SEED, Baseline, Predict, Scores
from research.baselines.scoring import Given

BATCH = 8
PIXELS = 200  # of each training image, for logistic regression
SMOOTHING = 1.0  # added to every count


class Masks:
    """Baselines on the pixels of evaluation images, which all have the canvas size."""

    def __init__(self, task: Any, data: Any):
        self._task, self._data = task, data

    def baselines(self) -> list[Baseline]:
        """The most frequent class, overall and by position; naive Bayes and regression on colour and position."""
        most = int(self._counts.sum((0, 1)).argmax())
        return [
            Baseline("most frequent class", lambda value: lambda images: np.full(images.shape[:3], most)),
            Baseline("most frequent class of each position", self._mode),
            Baseline("naive Bayes of colour and position", self._bayes, "levels of a colour channel", (4, 8, 16, 32)),
            Baseline(
                "logistic regression on colour and position", self._regression, "C", (0.1, 10.0),
                f"fitted on {PIXELS} pixels of each training image, drawn with seed {SEED}",
            ),
        ]  # fmt: skip

    def scores(self, split: str, predict: Predict) -> Scores:
        """Scores the predicted class of every pixel."""
        classes = len(self._data.class_names)
        spec = dataclasses.replace(self._task.spec, flip_tta=False)  # predictions are inputs here, not computed
        task = dataclasses.replace(self._task, model=Given(classes), spec=spec)
        confusion, scorer = np.zeros((classes, classes)), self._task.scorer(self._data, split)
        for batch in self._batches(split):
            predicted = predict(batch["image"])
            scorer.add({"index": batch["index"], "weight": batch["weight"], "mask": predicted.astype(np.uint8)})
            logits = np.eye(classes, dtype=np.float32)[predicted]
            confusion += np.asarray(task.evaluate(logits, batch)["confusion"][0], np.float64)
        return Scores(task.derived({"confusion": confusion}), scorer.signatures, scorer)

    def _batches(self, split: str) -> Iterator[Mapping[str, np.ndarray]]:
        return self._data.eval_batches(split, BATCH)

    @cached_property
    def _counts(self) -> np.ndarray:
        """The counts of each class at each position of the canvas in train, float64 [height, width, classes]."""
        classes, counts = range(len(self._data.class_names)), None
        for batch in self._batches("train"):
            masks = batch["mask"][batch["index"] >= 0]
            here = np.stack([(masks == number).sum(0, dtype=np.float64) for number in classes], axis=-1)
            counts = here if counts is None else counts + here
        assert counts is not None  # a split has at least one batch
        return counts

    def _mode(self, value: None) -> Predict:
        mode = self._counts.argmax(-1)
        return lambda images: np.broadcast_to(mode, images.shape[:3])

    def _bayes(self, levels: int) -> Predict:
        """P(class | position) P(colour | class), with colours counted in levels^3 cells."""
        classes = len(self._data.class_names)
        colours = np.zeros((levels**3, classes))
        for batch in self._batches("train"):
            valid = (batch["mask"] < classes) & (batch["index"] >= 0)[:, None, None]
            cells = _cells(batch["image"], levels)[valid] * classes + batch["mask"][valid]
            colours += np.bincount(cells, minlength=colours.size).reshape(colours.shape)
        colours = np.log(colours + SMOOTHING) - np.log((colours + SMOOTHING).sum(0))
        prior = np.log(self._counts + SMOOTHING)
        return lambda images: (prior + colours[_cells(images, levels)]).argmax(-1)

    def _regression(self, value: float) -> Predict:
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        model = make_pipeline(StandardScaler(), LogisticRegression(C=value, max_iter=1000)).fit(*self._sample)

        def predict(images: np.ndarray) -> np.ndarray:
            return model.predict(_features(images).reshape(-1, _FEATURES)).reshape(images.shape[:3])

        return predict

    @cached_property
    def _sample(self) -> tuple[np.ndarray, np.ndarray]:
        """Features and classes of a few pixels of each training image."""
        rng, rows, labels = np.random.default_rng(SEED), [], []
        for batch in self._batches("train"):
            features = _features(batch["image"])
            for image in np.flatnonzero(batch["index"] >= 0):
                y, x = np.nonzero(batch["mask"][image] < len(self._data.class_names))
                chosen = rng.permutation(len(y))[:PIXELS]
                rows.append(features[image, y[chosen], x[chosen]])
                labels.append(batch["mask"][image, y[chosen], x[chosen]])
        return np.concatenate(rows), np.concatenate(labels)


_FEATURES = 15


def _features(images: np.ndarray) -> np.ndarray:
    """Colour, position, and the squares and products of colours and of positions: [batch, height, width, _FEATURES]."""
    count, height, width, _ = images.shape
    red, green, blue = np.moveaxis(images.astype(np.float32) / 255, -1, 0)
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    y, x = (np.broadcast_to(each.astype(np.float32), (count, height, width)) for each in (y, x))
    squares = (red * red, green * green, blue * blue, red * green, red * blue, green * blue, y * y, x * x, y * x)
    return np.stack([red, green, blue, y, x, np.abs(x), *squares], axis=-1)


def _cells(images: np.ndarray, levels: int) -> np.ndarray:
    """The index of each pixel's colour among `levels`^3 cells."""
    red, green, blue = np.moveaxis(images.astype(np.int64) * levels // 256, -1, 0)
    return (red * levels + green) * levels + blue
