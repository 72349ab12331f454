"""scikit-learn classifiers on feature vectors, as baselines for any kind of data.

The features of a split are a mapping from a name to a matrix [examples, features], which may be sparse.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from research.baselines.base import SEED, Baseline, Predict

MOST_EXAMPLES = 10_000  # for a support vector machine, whose training time is quadratic
MAX_ITERATIONS = 2000  # of logistic regression


def most_frequent(labels: np.ndarray) -> Baseline:
    """Predicts the most frequent class of train, the first of equally frequent ones."""
    most = Counter(sorted(labels.tolist())).most_common(1)[0][0]
    return Baseline("most frequent class", lambda value: lambda split: np.full(len(next(iter(split.values()))), most))


def logistic_regression(
    train: Mapping[str, Any], key: str, labels: np.ndarray, of: str = "", scaled: bool = False
) -> Baseline:
    """Logistic regression on the features `key`, described as `of`; with `scaled`, features are standardised."""
    from sklearn.linear_model import LogisticRegression

    make = lambda value: LogisticRegression(C=value, max_iter=MAX_ITERATIONS)
    return _classifier(
        _named("logistic regression", of), make, "C", (0.001, 0.01, 0.1, 1.0), train, key, labels, scaled
    )


def support_vectors(
    train: Mapping[str, Any], key: str, labels: np.ndarray, of: str = "", scaled: bool = False
) -> Baseline:
    """A support vector machine with an RBF kernel on at most MOST_EXAMPLES; arguments as in `logistic_regression`."""
    from sklearn.svm import SVC

    name = _named("support vector machine, RBF kernel", of)
    return _classifier(
        name, lambda value: SVC(C=value), "C", (0.1, 1.0, 10.0, 100.0), train, key, labels, scaled, MOST_EXAMPLES
    )


def neighbours(train: Mapping[str, Any], key: str, labels: np.ndarray, of: str = "", scaled: bool = False) -> Baseline:
    """k-nearest neighbours; arguments as in `logistic_regression`."""
    from sklearn.neighbors import KNeighborsClassifier

    make = lambda value: KNeighborsClassifier(value, algorithm="brute")
    return _classifier(_named("nearest neighbours", of), make, "k", (1, 3, 5, 10), train, key, labels, scaled)


def threshold(train: Mapping[str, Any], key: str, labels: np.ndarray, of: str) -> Baseline:
    """The threshold on the first feature that maximises accuracy on train."""
    from sklearn.tree import DecisionTreeClassifier

    def fit(value: None) -> Predict:
        tree = DecisionTreeClassifier(max_depth=1, random_state=SEED).fit(train[key][:, :1], labels)
        return lambda split: tree.predict(split[key][:, :1])

    return Baseline(_named("threshold", of), fit)


def subset(count: int, most: int) -> np.ndarray:
    """The sorted indices of at most `most` of `count` examples, drawn with SEED."""
    return np.sort(np.random.default_rng(SEED).permutation(count)[:most])


def _classifier(
    name: str,
    make: Callable[[Any], Any],
    setting: str,
    values: tuple[Any, ...],
    train: Mapping[str, Any],
    key: str,
    labels: np.ndarray,
    scaled: bool,
    most: int = 0,
) -> Baseline:
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    chosen = subset(len(labels), most or len(labels))

    def fit(value: Any) -> Predict:
        scaler = StandardScaler() if scaled else "passthrough"
        model = make_pipeline(scaler, make(value)).fit(train[key][chosen], labels[chosen])
        return lambda split: model.predict(split[key])

    part = f"fitted on {len(chosen):,} of {len(labels):,} training examples, drawn with seed {SEED}"
    return Baseline(name, fit, setting, values, part if len(chosen) < len(labels) else "")


def _named(name: str, of: str) -> str:
    return f"{name} on {of}" if of else name
