"""Scores of embeddings against brute force."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from research.metrics import face_scores


def make_pairs(count=300, seed=0, digits=2):
    """Similarities, many of them equal, of pairs of one person and of two, and their folds."""
    rng = np.random.default_rng(seed)
    same = (rng.random(count) < 0.4).astype(int)
    return np.round(rng.normal(0.3 * same, 0.2), digits), same, rng.integers(0, 5, count)


@pytest.mark.parametrize("digits", [1, 2, 9])
def test_the_area_is_the_chance_that_a_pair_of_one_person_is_more_similar(digits):
    similarities, same, _ = make_pairs(digits=digits)
    ours, others = similarities[same == 1][:, None], similarities[same == 0]
    expected = ((ours > others) + 0.5 * (ours == others)).mean()
    assert face_scores.roc(similarities, same).auc == pytest.approx(expected)


def test_rates_are_those_of_counting():
    similarities, same, _ = make_pairs()
    curve = face_scores.roc(similarities, same)
    rates = lambda threshold: [(similarities >= threshold)[same == kind].mean() for kind in (0, 1)]
    candidates = [np.inf, *similarities]
    for rate in (0, 1e-2, 0.1, 0.5, 1):
        best = max(rates(threshold)[1] for threshold in candidates if rates(threshold)[0] <= rate)
        assert curve.true_accepts_at(rate) == pytest.approx(best)
        assert rates(curve.threshold_at(rate))[0] <= rate


def test_the_equal_error_rate():
    # One of four pairs of two people lies above one of four of one person, and they can be exchanged: 1/4.
    similarities = np.array([0.9, 0.8, 0.7, 0.3, 0.6, 0.2, 0.1, 0.0])
    same = np.array([1, 1, 1, 1, 0, 0, 0, 0])
    assert face_scores.roc(similarities, same).eer == pytest.approx(0.25)
    assert face_scores.roc(np.arange(8.0), np.arange(8) >= 4).eer == 0
    # Where all are equally similar, the line between accepting nothing and everything: 1/2.
    assert face_scores.roc(np.ones(8), same).eer == pytest.approx(0.5)
    similarities, same, _ = make_pairs(digits=9, count=2000)
    rates = [((similarities >= at)[same == 0].mean(), (similarities < at)[same == 1].mean()) for at in similarities]
    nearest = min(rates, key=lambda pair: abs(pair[0] - pair[1]))[0]
    assert face_scores.roc(similarities, same).eer == pytest.approx(nearest, abs=2e-3)


def test_the_best_threshold_puts_as_many_right_as_any():
    similarities, same, _ = make_pairs()
    right = lambda threshold: ((similarities >= threshold) == same).sum()
    best = face_scores.best_threshold(similarities, same)
    assert right(best) == max(right(threshold) for threshold in [-9, 9, *similarities])
    assert best not in similarities
    assert face_scores.best_threshold(np.array([0.2, 0.8]), np.array([0, 1])) == pytest.approx(0.5)
    nothing = face_scores.best_threshold(np.array([0.2, 0.8, 0.9]), np.array([1, 0, 0]))
    assert nothing > 0.9  # to accept none is better than to accept the two that are more similar


def test_folds_are_judged_by_the_threshold_of_the_others():
    similarities, same, folds = make_pairs()
    right, thresholds = face_scores.fold_accuracies(similarities, same, folds)
    of_folds = []
    for fold in range(5):
        here = folds == fold
        threshold = face_scores.best_threshold(similarities[~here], same[~here])
        np.testing.assert_array_equal(thresholds[here], threshold)
        of_folds.append(np.mean((similarities[here] >= threshold) == same[here]))
    scores = face_scores.verify(similarities, same, folds)
    assert scores["pair_accuracy"] == pytest.approx(np.mean(of_folds))
    # A pair has no say in its own threshold.
    pairs = np.array([0.9, 0.8, 0.1, 0.5, 0.95]), np.array([1, 1, 0, 0, 1]), np.array([0, 0, 0, 1, 1])
    right, thresholds = face_scores.fold_accuracies(*pairs)
    assert thresholds[3] == thresholds[4] == pytest.approx(0.45) and right[3:].tolist() == [False, True]
    with pytest.raises(ValueError, match=r"0 of 1 pairs are of the same person"):
        face_scores.fold_accuracies(np.array([0.9, 0.1]), np.array([1, 0]), np.array([0, 1]))


def test_a_group_is_judged_by_the_thresholds_of_all():
    similarities, same, folds = make_pairs(2000)
    members = np.random.default_rng(1).random(2000) < 0.3
    similarities = np.where(members, similarities + 0.2, similarities)  # so that it is accepted too often
    scores = face_scores.verify_group(similarities, same, folds, members)
    others = face_scores.verify_group(similarities, same, folds, ~members)
    threshold = face_scores.roc(similarities, same).threshold_at(1e-2)
    accepted = similarities >= threshold
    assert scores["far"] == accepted[members & (same == 0)].mean() > others["far"]
    assert scores["tar"] == accepted[members & (same == 1)].mean() > others["tar"]
    assert scores["pairs"] == members.sum()
    assert scores["auc"] == pytest.approx(roc_auc_score(same[members], similarities[members]))
    one = face_scores.verify_group(similarities, same, folds, members & (same == 1))
    assert "auc" not in one and "far" not in one and 0 < one["tar"] <= 1


def test_the_nearest_image_is_that_of_brute_force(monkeypatch):
    monkeypatch.setattr(face_scores, "CHUNK", 7)
    rng = np.random.default_rng(0)
    probes, gallery = rng.normal(size=(20, 4)), rng.normal(size=(9, 4))
    rows, similarities = face_scores.nearest(probes, gallery)
    for probe, row, similarity in zip(probes, rows, similarities, strict=True):
        products = [sum(a * b for a, b in zip(probe, each, strict=True)) for each in gallery]
        assert row == int(np.argmax(products)) and similarity == pytest.approx(max(products))
