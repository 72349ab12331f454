"""Calibration against sklearn, loops and closed formulas."""

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, log_loss

from research.metrics import calibration


@pytest.fixture(scope="module")
def drawn():
    """Probabilities that are right as often as they say, and labels drawn from them."""
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet([0.5] * 4, 20_000)
    labels = (rng.random((len(probabilities), 1)) > probabilities.cumsum(1)).sum(1)
    return probabilities, np.minimum(labels, 3)


def test_scores_are_those_of_a_loop(drawn):
    probabilities, labels = (each[:500] for each in drawn)
    found = calibration.measure(probabilities, labels)
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    ece = 0.0
    for low in np.arange(15) / 15:
        inside = (confidence > low) & (confidence <= low + 1 / 15 + 1e-12)
        if inside.any():
            ece += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    order = np.argsort(confidence)
    adaptive = np.mean([abs(right[part].mean() - confidence[part].mean()) for part in np.array_split(order, 20)])
    assert found.ece == pytest.approx(ece)
    assert calibration.error(calibration.equal_mass(confidence, right, 20)) == pytest.approx(adaptive)
    assert found.nll == pytest.approx(log_loss(labels, probabilities))
    distances = (row - np.eye(4)[label] for row, label in zip(probabilities, labels, strict=True))
    brier = np.mean([distance @ distance for distance in distances])
    assert found.brier == pytest.approx(brier)
    assert found.accuracy == right.mean() and found.confidence == pytest.approx(confidence.mean())


def test_probabilities_that_are_true_are_calibrated(drawn):
    found = calibration.measure(*drawn)
    assert found.ece < 0.015 and found.adaptive_ece < 0.015
    assert found.accuracy == pytest.approx(found.confidence, abs=0.01)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_the_temperature_that_was_applied_is_found(drawn, temperature):
    probabilities, labels = drawn
    changed = calibration.scaled(probabilities, 1 / temperature)
    assert calibration.fit_temperature(changed, labels) == pytest.approx(temperature, rel=0.03)
    np.testing.assert_allclose(calibration.scaled(changed, temperature), probabilities, atol=1e-4)


def test_a_sure_and_wrong_model_has_the_worst_scores():
    probabilities = np.array([[1.0, 0.0], [1.0, 0.0]])
    found = calibration.measure(probabilities, np.array([1, 1]))
    assert (found.ece, found.adaptive_ece, found.brier) == (1, 1, 2) and np.isfinite(found.nll)


def test_the_confidence_of_answers_is_scored_by_its_event(drawn):
    probabilities, labels = drawn
    confidence, right = probabilities[:, 0], labels == 0
    found = calibration.of_confidence(confidence, right)
    assert found.ece < 0.015 and found.accuracy == pytest.approx(found.confidence, abs=0.01)
    assert found.nll == pytest.approx(log_loss(right, confidence))
    assert found.brier == pytest.approx(brier_score_loss(right, confidence))
    odds = lambda shares: np.log(shares / (1 - shares))
    kept = confidence[(confidence > 0.01) & (confidence < 0.99)]
    np.testing.assert_allclose(odds(calibration.sharpened(kept, 2.0)), odds(kept) / 2, atol=1e-6)


def test_bins_of_parts_are_pooled_to_those_of_all():
    rng = np.random.default_rng(3)
    confidence, right = rng.random(300), rng.random(300) < 0.4
    slices = slice(7), slice(7, 120), slice(120, None)
    parts = [calibration.equal_width(confidence[part], right[part]) for part in slices]
    for one, other in zip(calibration.pooled(parts), calibration.equal_width(confidence, right), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)
