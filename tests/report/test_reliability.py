"""Which predictions have a probability, and which of them are right."""

import json

import numpy as np
import pytest

from research.report import reliability


def test_classes_are_right_if_they_are_the_label():
    lines = [
        {"class": "a", "predicted": "a", "probabilities": {"a": 0.7, "b": 0.3}},
        {"target": "a", "predicted": "b", "probabilities": {"a": 0.4, "b": 0.6}},
    ]
    confidence, right, what = reliability.confidences(lines)
    assert what == "class"
    np.testing.assert_array_equal(confidence, [0.7, 0.6])
    np.testing.assert_array_equal(right, [True, False])


def test_texts_are_right_if_they_equal_a_reference():
    answers = [("the cat", 0.9), ("dog", 0.4)]
    lines = [{"prediction": text, "references": ["Cat", "mouse"], "probability": share} for text, share in answers]
    confidence, right, what = reliability.confidences(lines)
    assert (confidence.tolist(), right.tolist(), what) == ([0.9, 0.4], [True, False], "text")


def test_candidates_are_right_if_they_are_nearest():
    lines = [{"rank": rank, "nearest": "a", "probability": share} for rank, share in ((1, 0.8), (3, 0.3))]
    confidence, right, what = reliability.confidences(lines)
    assert (confidence.tolist(), right.tolist(), what) == ([0.8, 0.3], [True, False], "candidate")


def test_boxes_are_right_if_they_match_an_object():
    box, other = [10, 10, 20, 20], [40, 40, 60, 60]
    objects = {"boxes": [box], "labels": ["cat"], "crowd": [0], "areas": [100]}
    lines = [{"boxes": [box, other], "labels": ["cat", "cat"], "scores": [0.9, 0.8], "objects": objects}]
    confidence, right, what = reliability.confidences(lines)
    assert (confidence.tolist(), right.tolist(), what) == ([0.9, 0.8], [True, False], "box")


def test_pairs_get_the_probability_that_a_line_through_the_other_folds_gives():
    rng = np.random.default_rng(0)
    same = rng.integers(0, 2, 4000)
    similarity = rng.normal(np.where(same, 0.5, -0.5), 1.0)  # equal variances: log-odds are exactly the similarity
    lines = [
        {"same": int(each), "fold": index % 10, "similarity": value}
        for index, (each, value) in enumerate(zip(same, similarity, strict=True))
    ]
    confidence, right, what = reliability.confidences(lines)
    assert what == "pair"
    np.testing.assert_allclose(confidence, 1 / (1 + np.exp(-np.abs(similarity))), atol=0.05)
    agrees = right == ((similarity > 0) == same)
    assert agrees.mean() > 0.95, "but for pairs between the fitted threshold and 0"


@pytest.mark.parametrize("fold", [0, 1])
def test_pairs_of_one_fold_or_one_kind_have_no_probability(fold):
    lines = [{"same": each, "fold": fold * each, "similarity": 0.1} for each in (0, 1, 0, 1)]
    assert not len(reliability.confidences(lines)[0])


def test_images_of_void_pixels_only_are_not_drawn():
    assert reliability.bins([{"calibration": [[0, 0.0, 0.0]]}]) is None


@pytest.mark.parametrize("lines", [[], [{"prediction": "ja", "references": ["yes"]}], [{"mask": "0.png"}]])
def test_without_probabilities_nothing_is_drawn(tmp_path, lines):
    (tmp_path / "predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert reliability.draw(tmp_path) is None and not list(tmp_path.glob("*.png"))


def test_the_figure_shows_bins_and_the_error(tmp_path):
    line = {"class": "a", "predicted": "a", "probabilities": {"a": 0.8, "b": 0.2}}
    (tmp_path / "predictions.jsonl").write_text(json.dumps(line) + "\n" + json.dumps(line | {"class": "b"}) + "\n")
    assert reliability.draw(tmp_path).stat().st_size > 5000
    confidence, right, what = reliability.confidences([line, line | {"class": "b"}])
    axes = reliability.figure(reliability.calibration.equal_width(confidence, right), what).axes[0]
    np.testing.assert_allclose(axes.collections[0].get_offsets(), [[0.8, 0.5]])
    assert "0.3" in axes.get_title(loc="left"), "|0.8 - 0.5|"
