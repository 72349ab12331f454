"""Every score is declared, with its unit and its direction."""

import json
from pathlib import Path

import pytest

from research.metrics import metric, text_scores

ROOT = Path(__file__).parents[2]
EXAMPLES = [{"references": ("one two three four five",), "task": 3, "speaker": "ann"}]


@pytest.mark.parametrize(("name", "mode"), {
    "loss": "min", "ctc_loss": "min", "perplexity": "min", "wer": "min", "wer_speaker_theo": "min", "cer": "min",
    "deletions": "min", "eer": "min", "far_light_dim": "min", "tar_at_far_1e-2": "max", "accuracy": "max",
    "map50": "max", "auc": "max", "bleu": "max", "iou_traffic_loss": "max", "recall_wer": "max",
}.items())  # fmt: skip
def test_less_is_better_for_errors(name, mode):
    assert metric.mode(name) == mode


@pytest.mark.parametrize("name", ["", "lossless", "certainty", "_loss"])
def test_a_metric_that_is_not_declared_has_no_direction(name):
    with pytest.raises(ValueError, match="is not declared"):
        metric.mode(name)


def test_similar_names_are_given():
    with pytest.raises(ValueError, match="similar ones: balanced_accuracy"):
        metric.find("balancd_accuracy")


@pytest.mark.parametrize("name", text_scores.METRICS)
def test_scores_of_texts_lie_in_the_range_of_their_unit(name):
    most = {"fraction": 1, "percent": 100, "count": 0}  # where the prediction is the reference
    scores, _ = text_scores.METRICS[name](["one two three four five"], EXAMPLES)
    for score, value in scores.items():
        found = metric.find(score)
        assert value == pytest.approx(0 if found.mode == "min" else most[found.unit])


def test_every_recorded_score_is_declared():
    rows = [
        json.loads(line)
        for path in (ROOT / "experiments").glob("*/results.jsonl")
        for line in path.read_text("utf-8").splitlines()
    ]
    names = {name.rpartition("/")[2] for row in rows for name in row.get("metrics", {})}
    assert names and all(metric.find(name) for name in names)


def test_no_metric_is_declared_twice():
    names = [each.name for each in metric.METRICS]
    assert len(names) == len(set(names))
