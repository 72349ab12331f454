"""Plots are drawn from what a run has saved, and say what is missing."""

import json

import numpy as np
import pytest

from research.report import confusion, precision_recall


def write(folder, lines):
    (folder / "predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_precision_and_recall_of_each_class(tmp_path):
    box, other = [10, 10, 20, 20], [40, 40, 60, 60]
    objects = {"boxes": [box, other], "labels": ["cat", "dog"], "crowd": [0, 0], "areas": [100, 400]}
    write(tmp_path, [{"boxes": [box, other], "labels": ["cat", "cat"], "scores": [0.9, 0.8], "objects": objects}])
    assert precision_recall.draw(tmp_path) == tmp_path / "precision_recall.png"
    assert (tmp_path / "precision_recall.png").stat().st_size > 5000
    with pytest.raises(ValueError, match=r"predictions.jsonl holds no objects"):
        precision_recall.draw(tmp_path / "nowhere")


def test_nothing_found_is_drawn_too(tmp_path):
    objects = {"boxes": [[10, 10, 20, 20]], "labels": ["cat"], "crowd": [0], "areas": [100]}
    write(tmp_path, [{"boxes": [], "labels": [], "scores": [], "objects": objects}])
    assert precision_recall.draw(tmp_path).stat().st_size > 5000


def test_pixels_of_all_images_are_summed(tmp_path):
    lines = [
        {"classes": ["sky", "road"], "confusion": [[5, 1], [0, 2]]},
        {"classes": ["sky", "road"], "confusion": [[20000, 0], [3, 4]]},
    ]
    names, counts = confusion.matrix(lines)
    assert names == ["sky", "road"]
    np.testing.assert_array_equal(counts, [[20005, 1], [3, 6]])
    write(tmp_path, lines)
    assert confusion.draw(tmp_path).stat().st_size > 5000
