"""Average precision of many bootstrap resamples of the same images, for which boxes are matched only once.

Boxes are matched to objects image by image (by pycocotools), so a resample only weights each match with the number of
times that its image was drawn.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Real

from research.metrics import box_scores

THRESHOLDS = np.linspace(0.5, 0.95, 10)  # of the IoU
RECALLS = np.linspace(0, 1, 101)
CHUNK = 100  # resamples per chunk, which bounds memory


class Matches(NamedTuple):
    """The predicted boxes of one class in all images, sorted by descending score.

    image    int [boxes]: the index of the image
    hit      bool [thresholds, boxes]: whether the box matches an object
    counted  bool [thresholds, boxes]: whether the box is not ignored (boxes that match a crowd are)
    objects  int [images]: the number of objects of this class that are not crowds
    """

    image: Int[np.ndarray, " boxes"]
    hit: Bool[np.ndarray, "thresholds boxes"]
    counted: Bool[np.ndarray, "thresholds boxes"]
    objects: Int[np.ndarray, " images"]


def matches(images: list[dict[str, Any]], class_names: tuple[str, ...]) -> list[Matches]:
    """The matches of each class that has objects, at THRESHOLDS; `images` as in `box_scores.average_precision`."""
    scores = box_scores.evaluated(images, class_names)
    found = []
    for number in range(len(class_names)):
        # evalImgs: for each class, size of objects (all, small, ...) and image; None where it has no boxes of a class.
        begin = number * len(scores.params.areaRng) * len(images)
        cells = [(row, cell) for row, cell in enumerate(scores.evalImgs[begin : begin + len(images)]) if cell]
        objects = np.zeros(len(images), int)
        for row, cell in cells:
            objects[row] = np.count_nonzero(np.asarray(cell["gtIgnore"]) == 0)
        if not objects.any():
            continue
        score = np.concatenate([cell["dtScores"] for _, cell in cells])
        order = np.argsort(-score, kind="mergesort")  # as pycocotools: equal scores stay in the order of images
        image = np.concatenate([np.full(len(cell["dtScores"]), row) for row, cell in cells])[order]
        hit = np.concatenate([np.asarray(cell["dtMatches"]) > 0 for _, cell in cells], axis=1)[:, order]
        ignored = np.concatenate([np.asarray(cell["dtIgnore"]) > 0 for _, cell in cells], axis=1)[:, order]
        found.append(Matches(image.astype(int), hit, ~ignored, objects))
    return found


def average_precision(
    classes: Sequence[Matches], counts: Real[np.ndarray, "resamples images"], thresholds: slice = slice(None)
) -> Float[np.ndarray, " resamples"]:
    """The mean over classes and IoU thresholds of the average precision, if each image occurs `counts` times.

    Precisions are interpolated at RECALLS, as in pycocotools. The mean of a resample omits classes without objects in
    it, and is NaN if no class has any.
    """
    parts = [counts[start : start + CHUNK] for start in range(0, len(counts), CHUNK)]
    return np.concatenate([_of_chunk(classes, part, thresholds) for part in parts])


def _of_chunk(classes, counts, thresholds):
    values = []
    for each in classes:
        objects = counts @ each.objects
        weight = counts[:, each.image]
        for hit, counted in zip(each.hit[thresholds], each.counted[thresholds], strict=True):
            right = np.cumsum(weight * (hit & counted), axis=1)
            precision = right / np.maximum(np.cumsum(weight * counted, axis=1), 1)
            precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[
                :, ::-1
            ]  # the maximum at this recall or above
            recall = right / np.maximum(objects, 1)[:, None]
            values.append(np.where(objects > 0, list(map(_mean_at, recall, precision)), np.nan))
    values = np.array(values)
    known = ~np.isnan(values)
    return np.where(known.any(0), np.where(known, values, 0).sum(0) / np.maximum(known.sum(0), 1), np.nan)


def _mean_at(recall, precision):
    """The mean of the precisions at RECALLS, 0 above the highest recall."""
    return np.append(precision, 0.0)[np.searchsorted(recall, RECALLS, side="left")].mean()
