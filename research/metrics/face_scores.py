"""Scores of embeddings: who is it (closed-set identification), and is it the same person (verification).

Everything here is NumPy on the host; similarities are cosines.
"""

from typing import NamedTuple

import numpy as np

CHUNK = 1024  # rows of similarities at a time
RATES = {"1e-2": 1e-2, "1e-3": 1e-3}  # of false accepts


def nearest(probes: np.ndarray, gallery: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The row of `gallery` [images, embed] that is most similar to each of `probes` [count, embed]; how similar."""
    rows, similarities = [], []
    for start in range(0, len(probes), CHUNK):
        products = probes[start : start + CHUNK] @ gallery.T
        rows.append(products.argmax(1))
        similarities.append(products.max(1))
    return np.concatenate(rows), np.concatenate(similarities)


class Roc(NamedTuple):
    """What accepting pairs of at least a similarity does, from the highest threshold to the lowest.

    thresholds     one for each similarity that occurs, after an infinite one, which accepts nothing
    false_accepts  the share of the pairs of two people that are accepted
    true_accepts   the share of the pairs of one person that are accepted
    """

    thresholds: np.ndarray
    false_accepts: np.ndarray
    true_accepts: np.ndarray

    @property
    def auc(self) -> float:
        """The area under the curve: how often a pair of one person is more similar than one of two (ties: half)."""
        return float(np.trapezoid(self.true_accepts, self.false_accepts))

    @property
    def eer(self) -> float:
        """The rate at which false accepts and false rejects are equal, on the line between thresholds."""
        surplus = self.false_accepts - (1 - self.true_accepts)  # rises from -1 to 1
        after = int(np.argmax(surplus >= 0))
        share = -surplus[after - 1] / (surplus[after] - surplus[after - 1])
        return float(self.false_accepts[after - 1] + share * np.diff(self.false_accepts)[after - 1])

    def true_accepts_at(self, rate: float) -> float:
        """The largest share of true accepts with at most the rate `rate` of false ones."""
        return float(self.true_accepts[self._last(rate)])

    def threshold_at(self, rate: float) -> float:
        """The lowest threshold with at most the rate `rate` of false accepts."""
        return float(self.thresholds[self._last(rate)])

    def _last(self, rate: float) -> int:
        return int(np.searchsorted(self.false_accepts, rate, side="right")) - 1


def roc(similarities: np.ndarray, same: np.ndarray) -> Roc:
    """The curve of pairs with these `similarities` [pairs], `same` (0 or 1) where both show one person.

    Raises ValueError where there are no pairs of one kind.
    """
    from sklearn import metrics  # late, since it takes a second to import

    _count(same)
    false, true, thresholds = metrics.roc_curve(same, similarities, drop_intermediate=False)
    return Roc(thresholds, false, true)


def best_threshold(similarities: np.ndarray, same: np.ndarray) -> float:
    """The threshold that puts most pairs right, the highest of equally good ones.

    It lies midway between the similarities on its two sides. Raises ValueError where there are no pairs of one kind.
    """
    ones, twos = _count(same)
    curve = roc(similarities, same)
    best = int(np.argmax(curve.true_accepts * ones - curve.false_accepts * twos))
    if not best:
        return float(np.nextafter(curve.thresholds[1], np.inf))
    return float(curve.thresholds[best : best + 2].mean())


def fold_accuracies(similarities: np.ndarray, same: np.ndarray, folds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whether each pair is put right by the `best_threshold` of all other folds, and that threshold.

    As in View 2 of LFW (Huang et al., 2007). Raises ValueError where the others lack pairs of one kind.
    """
    right, thresholds = np.zeros(len(same), bool), np.zeros(len(same))
    for fold in np.unique(folds):
        here = folds == fold
        thresholds[here] = best_threshold(similarities[~here], same[~here])
        right[here] = (similarities[here] >= thresholds[here]) == same[here]
    return right, thresholds


def verify(similarities: np.ndarray, same: np.ndarray, folds: np.ndarray) -> dict[str, float]:
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
    similarities: np.ndarray, same: np.ndarray, folds: np.ndarray, members: np.ndarray
) -> dict[str, float]:
    """Scores of the pairs that are `members` (bool [pairs]) of a group, by thresholds that are chosen on all pairs.

    `pairs` (how many), `pair_accuracy`; `far` and `tar` at the threshold where 1e-2 of all pairs of two people are
    accepted, so that a group that is mistaken more often than others is seen; and `auc` where both kinds occur.
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
    ones = int(np.sum(same))
    if not 0 < ones < len(same):
        raise ValueError(f"{ones} of {len(same)} pairs show one person; verification needs pairs of both kinds")
    return ones, len(same) - ones
