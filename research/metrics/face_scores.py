"""Scores of face embeddings: closed-set identification and verification.

Everything here is NumPy on the host; similarities are cosines.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Num, Shaped

CHUNK = 1024  # rows of similarities at a time
Similarities = Float[np.ndarray, " pairs"]
Same = Num[np.ndarray, " pairs"] | Bool[np.ndarray, " pairs"]  # 1 where a pair shows one person
Folds = Shaped[np.ndarray, " pairs"]
RATES = {"1e-2": 1e-2, "1e-3": 1e-3}  # false accept rates


def nearest(
    probes: Float[np.ndarray, "probes embed"], gallery: Float[np.ndarray, "gallery embed"]
) -> tuple[Int[np.ndarray, " probes"], Float[np.ndarray, " probes"]]:
    """The most similar row of `gallery` [images, embed] for each of `probes` [count, embed], and its similarity."""
    rows, similarities = [], []
    for start in range(0, len(probes), CHUNK):
        products = probes[start : start + CHUNK] @ gallery.T
        rows.append(products.argmax(1))
        similarities.append(products.max(1))
    return np.concatenate(rows), np.concatenate(similarities)


class Roc(NamedTuple):
    """The ROC curve of accepting pairs above a similarity threshold, from the highest threshold to the lowest.

    Attributes:
        thresholds: Infinity, which accepts nothing, and then each similarity that occurs.
        false_accepts: The false accept rate, the share of accepted pairs among those of different people.
        true_accepts: The true accept rate, the share of accepted pairs among those of the same person.
    """

    thresholds: Float[np.ndarray, " thresholds"]
    false_accepts: Float[np.ndarray, " thresholds"]
    true_accepts: Float[np.ndarray, " thresholds"]

    @property
    def auc(self) -> float:
        """The area under the curve: P(a same-person pair is more similar than another pair), ties count half."""
        return float(np.trapezoid(self.true_accepts, self.false_accepts))

    @property
    def eer(self) -> float:
        """The equal error rate, interpolated linearly between thresholds."""
        surplus = self.false_accepts - (1 - self.true_accepts)  # rises from -1 to 1
        after = int(np.argmax(surplus >= 0))
        share = -surplus[after - 1] / (surplus[after] - surplus[after - 1])
        return float(self.false_accepts[after - 1] + share * np.diff(self.false_accepts)[after - 1])

    def true_accepts_at(self, rate: float) -> float:
        """The true accept rate at a false accept rate of at most `rate`."""
        return float(self.true_accepts[self._last(rate)])

    def threshold_at(self, rate: float) -> float:
        """The lowest threshold with a false accept rate of at most `rate`."""
        return float(self.thresholds[self._last(rate)])

    def _last(self, rate: float) -> int:
        return int(np.searchsorted(self.false_accepts, rate, side="right")) - 1


def roc(similarities: Similarities, same: Same) -> Roc:
    """The ROC curve of pairs with `similarities` [pairs]; `same` [pairs] is 1 for the same person, else 0.

    Raises ValueError if there are no pairs of one kind.
    """
    from sklearn import metrics  # takes a second to import

    _count(same)
    false, true, thresholds = metrics.roc_curve(same, similarities, drop_intermediate=False)
    return Roc(thresholds, false, true)


def best_threshold(similarities: Similarities, same: Same) -> float:
    """The threshold that maximises pair accuracy, the highest if there are several.

    It is the midpoint between two adjacent similarities. Raises ValueError if there are no pairs of one kind.
    """
    num_same, num_different = _count(same)
    curve = roc(similarities, same)
    best = int(np.argmax(curve.true_accepts * num_same - curve.false_accepts * num_different))
    if not best:
        return float(np.nextafter(curve.thresholds[1], np.inf))
    return float(curve.thresholds[best : best + 2].mean())


def fold_accuracies(
    similarities: Similarities, same: Same, folds: Folds
) -> tuple[Bool[np.ndarray, " pairs"], Float[np.ndarray, " pairs"]]:
    """Whether each pair is classified correctly by the `best_threshold` of all other folds, and that threshold.

    As in View 2 of LFW (Huang et al., 2007). Raises ValueError if the other folds lack pairs of one kind.
    """
    right, thresholds = np.zeros(len(same), bool), np.zeros(len(same))
    for fold in np.unique(folds):
        here = folds == fold
        thresholds[here] = best_threshold(similarities[~here], same[~here])
        right[here] = (similarities[here] >= thresholds[here]) == same[here]
    return right, thresholds


def verify(similarities: Similarities, same: Same, folds: Folds) -> dict[str, float]:
    """`auc`, `eer`, `tar_at_far_1e-2` and `-3`, `pair_accuracy` (mean over the folds) and the best `threshold`."""
    curve, right = roc(similarities, same), fold_accuracies(similarities, same, folds)[0]
    of_folds = [right[folds == fold].mean() for fold in np.unique(folds)]
    return {
        "auc": curve.auc,
        "eer": curve.eer,
        **{f"tar_at_far_{name}": curve.true_accepts_at(rate) for name, rate in RATES.items()},
        "pair_accuracy": float(np.mean(of_folds)),
        "threshold": best_threshold(similarities, same),
    }


def verify_group(
    similarities: Similarities, same: Same, folds: Folds, members: Bool[np.ndarray, " pairs"]
) -> dict[str, float]:
    """Scores of the pairs in a group, given by the mask `members` [pairs], with thresholds chosen on all pairs.

    `pairs` (their number), `pair_accuracy`; `far` and `tar` at the threshold with a false accept rate of 1e-2 over all
    pairs, to compare the errors of groups; and `auc` if both kinds of pairs occur.
    """
    right = fold_accuracies(similarities, same, folds)[0][members]
    accepted = similarities[members] >= roc(similarities, same).threshold_at(RATES["1e-2"])
    one, two = same[members] == 1, same[members] == 0
    scores = {"pairs": float(members.sum()), "pair_accuracy": float(right.mean())}
    if one.any():
        scores["tar"] = float(accepted[one].mean())
    if two.any():
        scores["far"] = float(accepted[two].mean())
    if one.any() and two.any():
        scores["auc"] = roc(similarities[members], same[members]).auc
    return scores


def _count(same: np.ndarray) -> tuple[int, int]:
    num_same = int(np.sum(same))
    if not 0 < num_same < len(same):
        raise ValueError(
            f"{num_same} of {len(same)} pairs are of the same person; verification needs pairs of both kinds"
        )
    return num_same, len(same) - num_same
