"""Predictions of clips are scored class by class, and kept so that scores can be made again."""

import json

import numpy as np
import pytest
from sklearn import metrics

from research.report import confusion
from research.tasks import video


class Five:
    class_names = ("a", "b", "c")

    def reference(self, split, index):
        return {"clip": f"{split} {index}", "class": "aabba"[index]}


@pytest.fixture
def scorer():
    scorer = video.ClipScorer(Five(), "test")
    rows = np.array([[0.6, 0.3, 0.1], [0.2, 0.5, 0.3], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4], [0.9, 0.1, 0], [1, 0, 0]])
    scorer.add({"index": np.array([0, 1, 2, 3, 4, -1]), "weight": np.array([1, 1, 1, 1, 1, 0]), "probabilities": rows})
    return scorer


def test_recalls_are_those_of_scikit_learn(scorer):
    result = scorer.result()
    assert result["balanced_accuracy"] == pytest.approx(metrics.balanced_accuracy_score(list("aabba"), list("abbca")))
    assert result["recall_a"] == pytest.approx(2 / 3) and result["recall_b"] == 0.5 and "recall_c" not in result


def test_what_is_saved_makes_the_confusion_matrix(scorer, tmp_path):
    scorer.save(tmp_path / "predictions.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    said = {"clip": "test 1", "class": "a", "predicted": "b", "probabilities": {"a": 0.2, "b": 0.5, "c": 0.3}}
    assert lines[1] == said
    names, counts = confusion.matrix(lines)
    assert names == ["a", "b", "c"] and counts.tolist() == [[2, 1, 0], [0, 1, 1], [0, 0, 0]]
    assert confusion.draw(tmp_path).stat().st_size > 5000
    assert confusion.draw(tmp_path / "nowhere") is None
