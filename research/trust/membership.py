"""Membership inference: how well an attacker tells which examples a model was trained on, from their losses.

Attacks give each example a score, higher for members:

- loss threshold: the loss, negated (Yeom et al., "Privacy Risk in Machine Learning", 2018)
- LiRA: the likelihood ratio of the example's confidence under the confidences that shadow models have, those trained
  with it and those without (online), or only those without (offline). Carlini et al., "Membership Inference Attacks
  From First Principles", 2022, equations 2 to 4, with their global variance, since few shadow models give no variance
  per example.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

FALSE_POSITIVES = 0.01  # the rate at which true positives are reported
RESAMPLES = 1000
_LEAST_LOSS = 1e-12


class Success(NamedTuple):
    """How well an attack does; fractions.

    tpr                  true positive rate at a false positive rate of at most FALSE_POSITIVES; low, high: its 95 %
                         interval
    auc                  area under the ROC curve
    balanced_accuracy    of the best threshold, (TPR + 1 - FPR) / 2, chosen on the same examples
    members, others      the number of decisions of either kind
    """

    tpr: float
    low: float
    high: float
    auc: float
    balanced_accuracy: float
    members: int
    others: int


def confidence(losses: Float[np.ndarray, "*examples"]) -> Float[np.ndarray, "*examples"]:
    """log(p / (1 - p)) of the probability p = exp(-loss), whose distribution over models is nearly normal."""
    losses = np.maximum(losses, _LEAST_LOSS)
    return -(losses + np.log(-np.expm1(-losses)))


def lira(
    scores: Float[np.ndarray, "models examples"],
    inside: Bool[np.ndarray, "models examples"],
    target: Float[np.ndarray, " examples"],
    online: bool,
) -> Float[np.ndarray, " examples"]:
    """The score of each example for a target model.

    Args:
        scores: The confidences of the shadow models.
        inside: Whether each was trained with the example; of every example at least one was not and, online, one was.
        target: The confidences of the target model.
        online: Whether to use the shadow models that were trained with the example.

    Returns:
        The logarithm of the likelihood ratio or, offline, the number of standard deviations above the mean of the
        models without the example.
    """
    out_mean, out_deviation = _normal(scores, ~inside)
    if not online:
        return (target - out_mean) / out_deviation
    in_mean, in_deviation = _normal(scores, inside)
    log_density = lambda mean, deviation: -(((target - mean) / deviation) ** 2) / 2 - np.log(deviation)
    return log_density(in_mean, in_deviation) - log_density(out_mean, out_deviation)


def _normal(scores: np.ndarray, used: np.ndarray) -> tuple[np.ndarray, float]:
    """The mean of each example over the models that are `used`, and the standard deviation over all of them."""
    counts = used.sum(0)
    mean = np.where(used, scores, 0).sum(0) / counts
    squares = np.where(used, (scores - mean) ** 2, 0).sum()
    degrees = (counts - 1).sum()
    return mean, float(np.sqrt(squares / degrees)) if degrees and squares else 1.0


def success(scores: Float[np.ndarray, "targets examples"], members: Bool[np.ndarray, "targets examples"]) -> Success:
    """How well the scores of an attack tell members from others, over all targets together.

    The interval of a single target is that of Clopper and Pearson (1934) for the fraction of members above the
    threshold, which it takes as given. That of several targets is a bootstrap over examples, all targets together, as
    the scores of an example for several targets are not independent; each resample has its own threshold.
    """
    tpr, hits = _at_rate(scores[members], scores[~members])
    if len(scores) == 1:
        low, high = clopper_pearson(hits, int(members.sum()))
    else:
        rng, count = np.random.default_rng(0), scores.shape[1]
        found = []
        for _ in range(RESAMPLES):
            chosen = rng.integers(count, size=count)
            resampled, of_members = scores[:, chosen], members[:, chosen]
            found.append(_at_rate(resampled[of_members], resampled[~of_members])[0])
        low, high = (float(each) for each in np.quantile(found, (0.025, 0.975)))
    rates = roc(scores, members)
    area = float(np.trapezoid(rates[1], rates[0]))
    best = float(((rates[1] + 1 - rates[0]) / 2).max())
    return Success(tpr, low, high, area, best, int(members.sum()), int((~members).sum()))


def roc(
    scores: Float[np.ndarray, "targets examples"], members: Bool[np.ndarray, "targets examples"]
) -> Float[np.ndarray, "2 thresholds"]:
    """False and true positive rates of all thresholds, ascending; equal scores are one threshold."""
    flat, labels = scores.ravel(), members.ravel()
    order = np.argsort(-flat, kind="stable")
    flat, labels = flat[order], labels[order]
    last = np.append(flat[1:] != flat[:-1], True)
    rates = [np.append(0, np.cumsum(kind)[last] / max(kind.sum(), 1)) for kind in (~labels, labels)]
    return np.stack(rates)


def _at_rate(members: np.ndarray, others: np.ndarray) -> tuple[float, int]:
    """The true positive rate, and the number of true positives, at a false positive rate of FALSE_POSITIVES at most."""
    allowed = int(FALSE_POSITIVES * len(others))
    threshold = np.sort(others)[::-1][allowed]
    hits = int((members > threshold).sum())
    return hits / len(members), hits


def clopper_pearson(hits: int, count: int) -> tuple[float, float]:
    """The exact 95 % interval of a binomial fraction."""
    from scipy.special import betaincinv

    low = float(betaincinv(hits, count - hits + 1, 0.025)) if hits else 0.0
    high = float(betaincinv(hits + 1, count - hits, 0.975)) if hits < count else 1.0
    return low, high


def bound(epsilon: float, delta: float) -> float:
    """The largest TPR at FALSE_POSITIVES against an (epsilon, delta)-private model (Kairouz et al., 2015)."""
    rate = FALSE_POSITIVES
    return float(min(1, np.exp(min(epsilon, 700)) * rate + delta, 1 - np.exp(-epsilon) * (1 - delta - rate)))
