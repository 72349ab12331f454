"""Membership inference on synthetic losses whose attack has a closed form."""

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics

from research.trust import audit, membership

SHIFT = 1.5


@pytest.fixture(scope="module")
def rng():
    return np.random.default_rng(0)


def test_success_on_normal_scores_is_that_of_the_closed_form(rng):
    """Scores N(SHIFT, 1) of members and N(0, 1) of others."""
    count = 100_000
    members = np.arange(2 * count) < count
    found = membership.success((rng.normal(size=2 * count) + SHIFT * members)[None], members[None])
    assert found.auc == pytest.approx(stats.norm.cdf(SHIFT / np.sqrt(2)), abs=0.003)
    assert found.tpr == pytest.approx(stats.norm.sf(stats.norm.isf(0.01) - SHIFT), abs=0.01)
    assert found.balanced_accuracy == pytest.approx(stats.norm.cdf(SHIFT / 2), abs=0.004)
    assert (found.members, found.others) == (count, count)


def test_success_agrees_with_scikit_learn_where_scores_are_equal(rng):
    scores, members = rng.integers(0, 6, 500).astype(float), rng.random(500) < 0.4
    found = membership.success(scores[None], members[None])
    assert found.auc == pytest.approx(metrics.roc_auc_score(members, scores))
    false, true, _ = metrics.roc_curve(members, scores, drop_intermediate=False)
    assert found.balanced_accuracy == pytest.approx(((true + 1 - false) / 2).max())
    assert found.tpr == true[false <= 0.01].max()
    np.testing.assert_allclose(membership.roc(scores[None], members[None]), [false, true])


@pytest.mark.parametrize(("hits", "count"), [(0, 20), (3, 50), (50, 50)])
def test_the_interval_of_a_fraction_is_exact(hits, count):
    exact = stats.binomtest(hits, count).proportion_ci(0.95, "exact")
    assert membership.clopper_pearson(hits, count) == pytest.approx((exact.low, exact.high))


def test_intervals_cover_the_truth_as_often_as_they_say(rng):
    """Of a single target that of Clopper and Pearson takes the threshold as given, so only several are tested."""
    truth, covered = stats.norm.sf(stats.norm.isf(0.01) - SHIFT), 0
    members = np.stack([np.arange(600) % 2 == 0, np.arange(600) % 2 == 1])
    for _ in range(20):
        found = membership.success(rng.normal(size=(2, 600)) + SHIFT * members, members)
        covered += found.low <= truth <= found.high
    assert covered >= 17


def test_confidence_is_the_log_odds_of_the_probability():
    probability = np.array([1e-9, 0.01, 0.5, 0.99])
    np.testing.assert_allclose(
        membership.confidence(-np.log(probability)), np.log(probability / (1 - probability)), rtol=1e-9
    )
    assert np.isfinite(membership.confidence(np.array([0.0, 50.0, 800.0]))).all()


def test_lira_attains_the_optimum_that_a_threshold_misses(rng):
    """Confidences h + SHIFT * member + N(0, 1) with a hardness h of each example, which shadow models reveal."""
    models, count = 64, 4000
    hardness = rng.normal(0, 5, count)
    inside = rng.random((models + 1, count)) < 0.5
    scores = hardness + SHIFT * inside + rng.normal(size=inside.shape)
    target, members = scores[-1], inside[-1:]
    optimum = stats.norm.cdf(SHIFT / np.sqrt(2))
    plain = membership.success(target[None], members).auc
    assert plain == pytest.approx(stats.norm.cdf(SHIFT / np.sqrt(2 * (25 + 1))), abs=0.02)
    for online in (True, False):
        ratio = membership.lira(scores[:-1], inside[:-1], target, online)
        assert membership.success(ratio[None], members).auc == pytest.approx(optimum, abs=0.02)
    # The optimal statistic is the likelihood ratio itself.
    exact = stats.norm.logpdf(target, hardness + SHIFT) - stats.norm.logpdf(target, hardness)
    assert np.corrcoef(membership.lira(scores[:-1], inside[:-1], target, True), exact)[0, 1] > 0.95


def test_attacks_use_each_half_and_no_member_of_the_pair(rng):
    """Losses that only membership lowers: every attack on shadow runs is then as good as guessing from one coin."""
    count, tests = 2000, 500
    shadows = 8
    halves = np.stack([np.isin(np.arange(count), audit.splits.half(count, k + 1)) for k in range(shadows)])
    hardness = rng.normal(0, 3, count + tests)
    loss = lambda odds: np.log1p(np.exp(-odds))
    draw = lambda inside: loss(hardness + 2 * inside + rng.normal(size=count + tests))
    models = [draw(np.append(half, np.zeros(tests, bool))) for half in halves]
    run = draw(np.arange(count + tests) < count)
    cut = lambda values: audit.Losses(values[:count], values[count:])
    found = audit.attacks(cut(run), [cut(each) for each in models])
    success = {name: membership.success(*pair) for name, pair in found.items()}
    assert (found["shadow_loss"][1] == halves).all() and found["run_loss"][1].sum() == count
    # Three confidences with and three without the example: the estimated means add 1/3 to the variance.
    expected = stats.norm.cdf(2 / np.sqrt(2 * (1 + 1 / 3)))
    assert success["shadow_lira_offline"].auc == pytest.approx(expected, abs=0.015)
    assert success["shadow_lira_online"].auc > success["shadow_lira_offline"].auc - 0.01
    assert success["shadow_loss"].auc == pytest.approx(stats.norm.cdf(2 / np.sqrt(2 * 10)), abs=0.02)
    # Four without it for the run.
    assert success["run_lira_offline"].auc == pytest.approx(stats.norm.cdf(2 / np.sqrt(2 * (1 + 1 / 4))), abs=0.03)
    assert audit.attacks(cut(run), []).keys() == {"run_loss"}


def test_without_a_difference_no_attack_finds_one(rng):
    models = [audit.Losses(rng.exponential(size=1000), rng.exponential(size=600)) for _ in range(5)]
    for pair in audit.attacks(models[0], models[1:]).values():
        found = membership.success(*pair)
        assert abs(found.auc - 0.5) < 0.05 and found.tpr < 0.04


def test_no_attack_beats_the_bound_of_a_private_mechanism():
    """Randomised response with ln 3: it tells the truth with probability 3/4, and no more can be inferred."""
    assert membership.bound(np.log(3), 0) == pytest.approx(0.03)
    assert membership.bound(0, 0) == pytest.approx(0.01)
    assert membership.bound(50, 1e-5) == pytest.approx(1)
    # One Gaussian release of sensitivity 1, noise 2: its ROC lies below the bound at its epsilon and delta.
    for epsilon in (0.5, 1, 2):
        delta = stats.norm.cdf(0.25 - 2 * epsilon) - np.exp(epsilon) * stats.norm.cdf(-0.25 - 2 * epsilon)
        assert stats.norm.sf(stats.norm.isf(0.01) - 0.5) <= membership.bound(epsilon, delta)


@pytest.mark.parametrize("count", [-2, 2, 5, 1002])
def test_numbers_of_shadow_runs_that_give_no_attack_are_refused(count):
    with pytest.raises(ValueError, match=rf"^--shadows={count} must be 0, or an even number from 4 to 1000$"):
        audit.check_count(count)
