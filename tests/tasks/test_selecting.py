"""Errors are better when they are less."""

import pytest

from research.tasks import selecting


@pytest.mark.parametrize(("metric", "mode"), {
    "loss": "min", "ctc_loss": "min", "perplexity": "min", "wer": "min", "wer_speaker_theo": "min", "cer": "min",
    "deletions": "min", "eer": "min", "far_light_dim": "min", "tar_at_far_1e-2": "max",
    "accuracy": "max", "map50": "max", "auc": "max", "bleu": "max",
    "certainty": "max", "lossless": "max",
}.items())  # fmt: skip
def test_less_is_better_for_errors(metric, mode):
    assert selecting.mode(metric) == mode
