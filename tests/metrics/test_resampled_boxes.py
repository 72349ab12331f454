"""Resampled average precision against pycocotools on the images, repeated."""

import numpy as np
import pytest

from research.metrics import box_scores, resampled_boxes
from research.report import intervals

NAMES = ("a", "b", "c")  # there are no objects of class c


def image(rng):
    count = rng.integers(0, 5)
    corner = rng.uniform(0, 60, (count, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(10, 40, (count, 2))], axis=1).round(2)
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    crowd = (rng.random(count) < 0.2).astype(int)
    truth = {"boxes": boxes, "labels": rng.integers(0, 2, count), "crowd": crowd, "areas": areas}
    others = rng.uniform((0, 0, 40, 40), (40, 40, 80, 80), (2, 4))
    moved = np.concatenate([boxes + rng.normal(0, 3, boxes.shape), others])
    labels = np.concatenate([truth["labels"], rng.integers(0, 3, 2)])
    return {"reference": truth, "found": {"boxes": moved.round(2), "labels": labels, "scores": rng.random(count + 2)}}


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    return [image(rng) for _ in range(12)]


def test_it_is_that_of_the_repeated_images(images):
    classes = resampled_boxes.matches(images, NAMES)
    counts = np.random.default_rng(1).multinomial(12, np.full(12, 1 / 12), 6)
    counts[0] = 1
    for name, thresholds in (("map", slice(None)), ("map50", slice(0, 1)), ("map75", slice(5, 6))):
        found = resampled_boxes.average_precision(classes, counts, thresholds)
        repeated = ([each for each, times in zip(images, row, strict=True) for _ in range(times)] for row in counts)
        expected = [box_scores.average_precision(each, NAMES)[name] for each in repeated]
        np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_a_class_without_an_object_in_a_resample_does_not_count(images):
    classes = resampled_boxes.matches(images, NAMES)
    assert len(classes) == 2
    only = np.zeros((2, 12), int)
    empty = next(row for row in range(12) if not any(each.objects[row] for each in classes))
    one = next(row for row in range(12) if sum(each.objects[row] > 0 for each in classes) == 1)
    only[0, empty], only[1, one] = 1, 1
    found = resampled_boxes.average_precision(classes, only)
    assert np.isnan(found[0])
    assert found[1] == pytest.approx(box_scores.average_precision([images[one]], NAMES)["map"])


def test_the_report_gives_the_paired_difference_of_two_detectors(images):
    def lines(scale):
        for index, each in enumerate(images):
            found = {**each["found"], "boxes": each["found"]["boxes"] * scale}
            objects = box_scores.as_json(each["reference"], NAMES)
            objects |= {key: np.asarray(each["reference"][key]).tolist() for key in ("crowd", "areas")}
            yield {"index": index, **box_scores.as_json(found, NAMES), "objects": objects}

    runs = []
    for scale in (1, 1.2):
        records = list(lines(scale))
        runs.append((box_scores.average_precision(*box_scores.from_lines(records))["map"], records))
    value, low, high, over = intervals.difference("test/map", *runs)
    assert over == "examples" and value == pytest.approx(runs[0][0] - runs[1][0])
    assert 0 < low < value < high, "boxes in the wrong place are worse in nearly every resample"
