"""Calibration of class probabilities: how often a prediction of probability p is right.

Expected calibration error (ECE) as Guo et al., "On Calibration of Modern Neural Networks", 2017, with bins of equal
width, and with bins of equally many examples (adaptive; Nixon et al., 2019); the Brier score of all classes (1950); the
temperature that divides the logits, fitted on validation.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

BINS = 15
_TINY = 1e-12  # the least probability whose logarithm is taken
TEMPERATURES = 0.05, 20.0  # the range in which one is looked for


class Bin(NamedTuple):
    """The examples whose confidence, the probability of the predicted class, lies within a bin."""

    examples: int
    confidence: float  # mean
    accuracy: float


class Calibration(NamedTuple):
    """The scores of the class probabilities of a split, all fractions but `nll` (nats)."""

    accuracy: float
    confidence: float  # mean
    ece: float
    adaptive_ece: float
    brier: float
    nll: float


def measure(probabilities: Float[np.ndarray, "examples classes"], labels: Int[np.ndarray, " examples"]) -> Calibration:
    """The calibration of probabilities; `labels` are class numbers."""
    right = probabilities.argmax(1) == labels
    confidence = probabilities.max(1)
    return Calibration(
        float(right.mean()),
        float(confidence.mean()),
        error(equal_width(confidence, right)),
        error(equal_mass(confidence, right)),
        brier(probabilities, labels),
        nll(probabilities, labels),
    )


def of_confidence(confidence: Float[np.ndarray, " answers"], right: np.ndarray) -> Calibration:
    """The calibration of the probability that an answer is right; `brier` (0 to 1) and `nll` are of this event."""
    event = np.stack([1 - confidence, confidence], axis=1)
    return Calibration(
        float(right.mean()),
        float(confidence.mean()),
        error(equal_width(confidence, right)),
        error(equal_mass(confidence, right)),
        float(np.square(confidence - right).mean()),
        nll(event, right.astype(int)),
    )


def sharpened(confidence: Float[np.ndarray, " answers"], temperature: float) -> Float[np.ndarray, " answers"]:
    """The probabilities of events whose log-odds are divided by `temperature`."""
    return scaled(np.stack([1 - confidence, confidence], axis=1), temperature)[:, 1]


def equal_width(confidence: np.ndarray, right: np.ndarray, bins: int = BINS) -> list[Bin]:
    """Bins ((k - 1) / bins, k / bins] of the confidence; those without examples have a count of 0."""
    number = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    return [_bin(confidence[number == each], right[number == each]) for each in range(bins)]


def equal_mass(confidence: np.ndarray, right: np.ndarray, bins: int = BINS) -> list[Bin]:
    """Bins of equally many examples, sorted by confidence; their counts differ by one at most."""
    order = np.argsort(confidence, kind="stable")
    return [_bin(confidence[part], right[part]) for part in np.array_split(order, min(bins, len(order)))]


def _bin(confidence: np.ndarray, right: np.ndarray) -> Bin:
    return Bin(len(right), float(confidence.mean()), float(right.mean())) if len(right) else Bin(0, 0.0, 0.0)


def pooled(parts: Sequence[Sequence[Bin]]) -> list[Bin]:
    """The bins of all examples, from those of disjoint parts with the same edges."""
    together = []
    for same in zip(*parts, strict=True):
        counts = np.array([each.examples for each in same])
        means = [float(counts @ values / max(counts.sum(), 1)) for values in np.array(same).T[1:]]
        together.append(Bin(int(counts.sum()), *means))
    return together


def error(bins: list[Bin]) -> float:
    """The mean over examples of the difference between confidence and accuracy of their bin."""
    total = sum(each.examples for each in bins)
    return sum(each.examples * abs(each.confidence - each.accuracy) for each in bins) / total


def brier(probabilities: Float[np.ndarray, "examples classes"], labels: Int[np.ndarray, " examples"]) -> float:
    """The mean over examples of the squared distance to the one-hot class, from 0 to 2."""
    distance = probabilities.copy()
    distance[np.arange(len(labels)), labels] -= 1
    return float(np.square(distance).sum(1).mean())


def nll(probabilities: Float[np.ndarray, "examples classes"], labels: Int[np.ndarray, " examples"]) -> float:
    """The mean negative log-likelihood, in nats."""
    return float(-np.log(np.maximum(probabilities[np.arange(len(labels)), labels], _TINY)).mean())


def scaled(
    probabilities: Float[np.ndarray, "examples classes"], temperature: float
) -> Float[np.ndarray, "examples classes"]:
    """The probabilities of logits that are divided by `temperature`."""
    logits = np.log(np.maximum(probabilities, _TINY)) / temperature
    shares = np.exp(logits - logits.max(1, keepdims=True))
    return shares / shares.sum(1, keepdims=True)


def fit_temperature(
    probabilities: Float[np.ndarray, "examples classes"], labels: Int[np.ndarray, " examples"]
) -> float:
    """The temperature of the least `nll`, within TEMPERATURES."""
    from scipy.optimize import minimize_scalar

    found = minimize_scalar(
        lambda log: nll(scaled(probabilities, float(np.exp(log))), labels),
        bounds=tuple(np.log(TEMPERATURES)),
        method="bounded",
        options={"xatol": 1e-4},
    )
    return float(np.exp(found.x))
