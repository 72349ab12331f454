"""`calibration.png`: how often predictions of a run are right, by their probability; from its predictions.jsonl."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from research.metrics import box_scores, calibration
from research.report import figures, formats, intervals
from research.train.rundir import AnyPath

_EXACT = 100  # exact match of a right answer, in percent


def draw(workdir: str | os.PathLike) -> AnyPath | None:
    """Draws `calibration.png` of a run; returns its path, or None if its predictions have no probabilities."""
    path, lines = figures.predictions(workdir)
    found = bins(lines)
    return figures.save(figure(*found), path.with_name("calibration.png")) if found else None


def bins(lines: list[dict[str, Any]]) -> tuple[list[calibration.Bin], str] | None:
    """The examples by the probability of their prediction, and what is predicted; None without probabilities."""
    if lines and "calibration" in lines[0]:  # of the pixels of an image
        images = [[calibration.Bin(*each) for each in line["calibration"]] for line in lines]
        pooled = calibration.pooled(images)
        return (pooled, "class") if any(each.examples for each in pooled) else None
    found = confidences(lines)
    if found is None or not len(found[0]):
        return None
    confidence, right, what = found
    return calibration.equal_width(confidence, right), what


def confidences(lines: list[dict[str, Any]]) -> tuple[np.ndarray, np.ndarray, str] | None:
    """The probability of each prediction, whether it is right, and what is predicted; None without probabilities.

    A prediction is a class; a text, with the probability of all its tokens, which is right if it equals a reference;
    the nearest candidate; a box, which is right if it is matched to an object with an IoU of .5 (the reliability of
    detectors, Küppers et al. 2020); or whether a pair is of one person, with the probability of a logistic regression
    on the similarities of the other folds (Platt scaling).
    """
    if not lines:
        return None
    first = lines[0]
    if isinstance(first.get("probabilities"), Mapping) and ("class" in first or "target" in first):
        confidence = [max(line["probabilities"].values()) for line in lines]
        right = [str(line["predicted"]) == str(line.get("class", line.get("target"))) for line in lines]
        return np.array(confidence), np.array(right), "class"
    if "probability" in first and "references" in first:
        right = [intervals.value("exact_match", [line]) == _EXACT for line in lines]
        return np.array([line["probability"] for line in lines]), np.array(right), "text"
    if "probability" in first and "rank" in first:
        right = [line["rank"] == 1 for line in lines]
        return np.array([line["probability"] for line in lines]), np.array(right), "candidate"
    if "objects" in first and "scores" in first:
        return *box_scores.right_at_half(*box_scores.from_lines(lines)), "box"
    if "similarity" in first and "same" in first:
        return *_of_pairs(lines), "pair"
    return None


def _of_pairs(lines: list[dict[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
    """The probabilities, by regressions on the other folds, and whether they are right; empty for a single fold."""
    from sklearn.linear_model import LogisticRegression  # slow to import

    folds, same = (np.array([line[key] for line in lines]) for key in ("fold", "same"))
    similarity = np.array([[line["similarity"]] for line in lines])
    shares = np.zeros(len(lines))
    for fold in np.unique(folds):
        if len(np.unique(same[folds != fold])) < 2:  # nothing to learn from
            return np.zeros(0), np.zeros(0, bool)
        fitted = LogisticRegression(C=np.inf).fit(similarity[folds != fold], same[folds != fold])
        shares[folds == fold] = fitted.predict_proba(similarity[folds == fold])[:, 1]
    return np.maximum(shares, 1 - shares), (shares > 0.5) == (same == 1)


def figure(bins: Sequence[calibration.Bin], what: str = "prediction") -> Any:
    """The matplotlib figure of the share of right predictions by confidence, with the expected calibration error."""
    from matplotlib.figure import Figure  # slow to import

    filled = [each for each in bins if each.examples]
    drawn = Figure(figsize=(5, 4), dpi=120, layout="constrained")
    axes = drawn.subplots()
    axes.plot([0, 1], [0, 1], color="#999999", linewidth=1, linestyle="--", label="calibrated")
    largest = max(each.examples for each in filled)
    sizes = [20 + 180 * each.examples / largest for each in filled]
    label = f"{len(bins)} bins, size by count"
    axes.scatter(
        [each.confidence for each in filled], [each.accuracy for each in filled], s=sizes, color="#3b6fb6", alpha=0.8,
        label=label,
    )  # fmt: skip
    axes.set(
        xlabel=f"probability of the predicted {what}", ylabel="share that is right", xlim=(0, 1.02), ylim=(0, 1.02)
    )
    error = formats.number(calibration.error(list(bins)))
    figures.tidy(axes, f"calibration, test split, ECE {error}")
    return drawn
