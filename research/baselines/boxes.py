"""Detection baselines: boxes at their most frequent positions, and connected regions of object colours."""

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

import numpy as np

from research.baselines.base import SEED, Baseline, Predict, Scores

BATCH = 16
MAX_BOXES = 100  # predicted per image
LEVELS = 16  # of a colour channel


class Boxes:
    """Baselines for detection; boxes are in px of the evaluation canvas."""

    def __init__(self, task: Any, data: Any):
        self._task, self._data = task, data

    def baselines(self) -> list[Baseline]:
        """The same boxes for every image, and connected regions of colours that are more likely within boxes."""
        return [
            Baseline(
                "mean boxes of each class at their most frequent positions", self._clusters, "boxes", (10, 25, 50, 100)
            ),
            Baseline("connected regions of the colours of a class", self._regions, "px eroded", (0, 2, 4, 6)),
        ]

    def scores(self, split: str, predict: Predict) -> Scores:
        """Scores the predicted boxes, each with its class and score."""
        scorer = self._task.scorer(self._data, split)
        for batch in self._data.eval_batches(split, BATCH):
            found = [predict(image) for image in batch["image"]]
            arrays = {key: np.stack([each[key] for each in found]) for key in ("boxes", "labels", "scores")}
            scorer.add({"index": batch["index"], "weight": batch["weight"], **arrays})
        return Scores(scorer.result(), scorer.signatures, scorer)

    def _batches(self) -> Iterator[Mapping[str, np.ndarray]]:
        return self._data.eval_batches("train", BATCH)

    @cached_property
    def _objects(self) -> tuple[np.ndarray, np.ndarray]:
        """All boxes [count, 4] and classes [count] of train, without padding."""
        boxes, labels = [], []
        for batch in self._batches():
            here = (batch["box_weight"] > 0) & (batch["index"] >= 0)[:, None]
            boxes.append(batch["boxes"][here])
            labels.append(batch["labels"][here])
        return np.concatenate(boxes), np.concatenate(labels)

    def _clusters(self, count: int) -> Predict:
        """The cluster centres of the boxes of each class: `count` in all, divided among classes as boxes in train."""
        from sklearn.cluster import KMeans

        boxes, labels = self._objects
        found, classes, scores = [], [], []
        for number in np.unique(labels):
            own = boxes[labels == number]
            clusters = min(len(np.unique(own, axis=0)), max(1, round(count * len(own) / len(boxes))))
            model = KMeans(
                clusters,
                random_state=SEED,
                n_init=3,  # pyright: ignore[reportArgumentType]  inferred from the default, "auto"
            )
            nearest = model.fit_predict(own)
            found.append(model.cluster_centers_)
            classes.append(np.full(clusters, number))
            scores.append(np.bincount(nearest, minlength=clusters) / self._data.counts["train"])
        constant = padded(np.concatenate(found), np.concatenate(classes), np.minimum(np.concatenate(scores), 1))
        return lambda image: constant

    @cached_property
    def _colours(self) -> np.ndarray:
        """P(class | colour) [cells, classes + 1], background last; a pixel in several boxes belongs to the smallest."""
        classes = len(self._data.class_names)
        counts = np.ones((LEVELS**3, classes + 1))
        for batch in self._batches():
            for row in np.flatnonzero(batch["index"] >= 0):
                owner = np.full(batch["image"].shape[1:3], classes)
                for box in range(int(batch["box_weight"][row].sum())):  # by size, the largest first
                    left, top, right, bottom = batch["boxes"][row, box].round().astype(int)
                    owner[top:bottom, left:right] = batch["labels"][row, box]
                cells = _cells(batch["image"][row]) * (classes + 1) + owner
                counts += np.bincount(cells.ravel(), minlength=counts.size).reshape(counts.shape)
        return counts / counts.sum(1, keepdims=True)

    def _regions(self, eroded: int) -> Predict:
        """Connected regions of the most likely class as boxes; scores decrease away from a typical size."""
        from scipy import ndimage

        boxes, labels = self._objects
        sizes = np.log(np.maximum(boxes[:, 2:] - boxes[:, :2], 1))
        usual = {number: sizes[labels == number] for number in np.unique(labels)}

        def predict(image: np.ndarray) -> Mapping[str, np.ndarray]:
            likely = self._colours[_cells(image)]
            best, found = likely.argmax(-1), []
            for number, own in usual.items():
                inside = best == number
                if eroded:
                    inside = ndimage.binary_erosion(inside, iterations=eroded)
                regions = np.zeros(inside.shape, np.int32)
                ndimage.label(inside, output=regions)
                for region, (rows, columns) in enumerate(ndimage.find_objects(regions), start=1):
                    box = [columns.start - eroded, rows.start - eroded, columns.stop + eroded, rows.stop + eroded]
                    size = np.log([box[2] - box[0], box[3] - box[1]])
                    unlike = np.square((size - own.mean(0)) / np.maximum(own.std(0), 0.1)).sum()
                    pixels = regions[rows, columns] == region
                    found.append((likely[rows, columns, number][pixels].mean() * np.exp(-unlike / 2), number, box))
            found = sorted(found, reverse=True)[:MAX_BOXES]
            scores, classes, corners = zip(*found, strict=True) if found else ((), (), np.zeros((0, 4)))
            return padded(np.array(corners, np.float32), np.array(classes), np.array(scores))

        return predict


def padded(boxes: np.ndarray, labels: np.ndarray, scores: np.ndarray) -> dict[str, np.ndarray]:
    """The detections of an image as arrays of MAX_BOXES rows, best first; rows of padding have the score 0."""
    order = np.argsort(-scores, kind="stable")[:MAX_BOXES]
    arrays = {
        "boxes": np.zeros((MAX_BOXES, 4), np.float32),
        "labels": np.zeros(MAX_BOXES, np.int32),
        "scores": np.zeros(MAX_BOXES),
    }
    for key, values in (("boxes", boxes), ("labels", labels), ("scores", scores)):
        arrays[key][: len(order)] = values[order]
    return arrays


def _cells(image: np.ndarray) -> np.ndarray:
    """The index of each pixel's colour among LEVELS^3 cells."""
    red, green, blue = np.moveaxis(image.astype(np.int64) * LEVELS // 256, -1, 0)
    return (red * LEVELS + green) * LEVELS + blue
