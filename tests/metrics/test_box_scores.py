"""Average precision against a count by hand; sizes, crowds and padding."""

import json
from typing import ClassVar

import numpy as np
import pytest

from research.metrics import box_scores

NAMES = ("a", "b")


def reference(boxes, labels, crowd=None):
    boxes = np.array(boxes, float).reshape(-1, 4)
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    crowd = np.zeros(len(boxes)) if crowd is None else np.array(crowd)
    return {"boxes": boxes, "labels": np.array(labels), "crowd": crowd, "areas": areas, "name": "p", "size": (99, 99)}


def found(boxes, labels, scores):
    return {"boxes": np.array(boxes, float).reshape(-1, 4), "labels": np.array(labels), "scores": np.array(scores)}


SMALL, LARGE = (10, 10, 20, 20), (0, 0, 120, 110)


def test_it_is_the_area_below_precision_over_recall():
    # Class a: hit, miss, hit in falling order of score, of two objects: precision 1 up to recall 1/2, then 2/3.
    images = [
        {"reference": reference([SMALL], [0]), "found": found([SMALL, (50, 50, 60, 60)], [0, 0], [0.9, 0.8])},
        {"reference": reference([LARGE], [0]), "found": found([LARGE], [0], [0.7])},
    ]
    scores = box_scores.average_precision(images, NAMES)
    expected = (51 * 1 + 50 * 2 / 3) / 101  # pycocotools takes recalls 0, 0.01, ..., 1
    measured = [scores[name] for name in ("map", "map50", "ap50_a", "map_small", "map_large")]
    assert measured == pytest.approx([expected] * 3 + [1, 1])
    assert "map_medium" not in scores and "ap50_b" not in scores, "which have no object"


def test_the_overlap_that_is_needed_grows_from_half_to_nearly_all():
    # IoU 0.8: found at .50, .55, ..., .80, which are seven of ten thresholds.
    images = [{"reference": reference([(0, 0, 100, 100)], [1]), "found": found([(0, 0, 100, 80)], [1], [0.5])}]
    scores = box_scores.average_precision(images, NAMES)
    assert [scores[name] for name in ("map", "map50", "map75")] == pytest.approx([0.7, 1, 1])


def test_precision_falls_along_the_recalls():
    images = [
        {"reference": reference([SMALL], [0]), "found": found([SMALL, (50, 50, 60, 60)], [0, 0], [0.9, 0.8])},
        {"reference": reference([LARGE], [0]), "found": found([LARGE], [0], [0.7])},
    ]
    ((name, precision),) = box_scores.precision_at_half(images, NAMES).items()
    assert name == "a" and precision == pytest.approx([1] * 51 + [2 / 3] * 50)


def test_boxes_are_right_if_they_match_an_object_of_their_class_once():
    truth = reference([SMALL, LARGE, (30, 30, 50, 50)], [0, 1, 1], crowd=[0, 0, 1])
    boxes = [SMALL, SMALL, LARGE, LARGE, (30, 30, 50, 50)]  # hit, again, hit, class b as a, on a crowd
    images = [
        {"reference": truth, "found": found(boxes, [0, 0, 1, 0, 1], [0.9, 0.8, 0.7, 0.6, 0.5])},
        {"reference": reference([], []), "found": found([SMALL], [1], [0.4])},
    ]
    scores, right = box_scores.right_at_half(images, NAMES)
    assert dict(zip(scores.tolist(), right.tolist(), strict=True)) == {
        0.9: True, 0.8: False, 0.7: True, 0.6: False, 0.4: False
    }  # fmt: skip


def test_a_crowd_is_neither_missed_nor_wrong():
    truth = reference([SMALL, LARGE], [0, 0], crowd=[0, 1])
    inside = found([SMALL, (30, 30, 50, 50), (60, 60, 70, 70)], [0, 0, 0], [0.5, 0.9, 0.8])
    assert box_scores.average_precision([{"reference": truth, "found": inside}], NAMES)["map"] == pytest.approx(1)


def test_nothing_found_is_zero_and_no_objects_no_score():
    nothing = found([], [], [])
    assert box_scores.average_precision([{"reference": reference([SMALL], [0]), "found": nothing}], NAMES) == {
        "map": 0.0, "map50": 0.0, "map75": 0.0, "map_small": 0.0, "ar1": 0.0, "ar10": 0.0, "ar100": 0.0,
        f"ap50_{NAMES[0]}": 0.0,
    }  # fmt: skip
    assert box_scores.average_precision([{"reference": reference([], []), "found": nothing}], NAMES) == {}


class Data:
    class_names = NAMES
    counts: ClassVar = {"test": 2}

    def reference(self, split, index):
        return reference([SMALL], [index % 2])

    def in_image(self, boxes, size):
        assert size == (99, 99)
        return boxes / 2


def test_batches_are_collected_without_padding_and_saved(tmp_path):
    scorer = box_scores.CocoScorer(Data(), "test")
    for indices in ((0, 1), (2, -1)):
        scorer.add(
            {
                "index": np.array(indices),
                "weight": np.array([float(index >= 0) for index in indices]),
                "boxes": np.tile(2.0 * np.array(SMALL), (2, 3, 1)),
                "labels": np.array([[index % 2, 0, 0] for index in indices]),
                "scores": np.array([[0.75, 0, 0]] * 2),
            }
        )
    assert scorer.result()["map"] == pytest.approx(1)
    scorer.save(tmp_path / "predictions.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    assert [line["labels"] for line in lines] == [["a"], ["b"], ["a"]]
    assert lines[2] == {
        "index": 2, "name": "p", "size": [99, 99], "boxes": [[10, 10, 20, 20]], "scores": [0.75], "labels": ["a"],
        "objects": {"boxes": [[10, 10, 20, 20]], "labels": ["a"], "crowd": [0], "areas": [100]},
    }  # fmt: skip
    again = box_scores.average_precision(*box_scores.from_lines(lines))
    assert again == scorer.result(), "from what is saved alone"
    assert "IoU .50:.05:.95" in scorer.signatures["map"] and "IoU .50," in scorer.signatures["map50"]


@pytest.mark.parametrize("objects", [([], []), ([SMALL], [1])], ids=["no objects", "only a crowd"])
def test_a_split_in_which_nothing_is_to_be_found_is_refused(objects):
    class Empty(Data):
        name = "cells"

        def reference(self, split, index):
            boxes, crowd = objects
            return reference(boxes, [0] * len(boxes), crowd=crowd)

    with pytest.raises(ValueError, match=r"no image of the test split of 'cells' has an object"):
        box_scores.CocoScorer(Empty(), "test")


def test_small_scores_are_saved_with_their_order():
    scores = np.float32([1.25e-7, 1.2e-7, 0.5])
    found = {"boxes": np.zeros((3, 4)), "scores": scores, "labels": np.zeros(3, int)}
    np.testing.assert_allclose(box_scores.as_json(found, ("cell",))["scores"], scores, rtol=1e-6)
