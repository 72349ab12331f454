"""Near-copies: test examples that a model can hardly tell from an example of train."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from research.metrics import face_scores
from research.trust import features

NEAR = 0.99  # cosine of features from which an example is called a near-copy
MOST = 20_000  # train examples that are compared
PAIRS = 10  # that are listed


def find(
    task: Any, data: Any, variables: Any, rows: int, most: int = MOST, near: float = NEAR, shown: bool = True
) -> dict[str, Any]:
    """Compares each test example with up to `most` of train, by the cosine of the model's features.

    Returns:
        `train` and `test` (numbers of examples), `near` and the number `count` of test examples of at least that
        similarity, the `median` similarity of a test example to the nearest of train, and the most similar `pairs`:
        `test` and `train` (index and fields of the example, its texts if they are `shown`) and `similarity`.
    """
    compute, counts = features.of(task), data.counts

    def of(split: str, limit: int) -> tuple[np.ndarray, np.ndarray]:
        return features.collect(compute, variables, features.batches(data, split, rows), counts[split], limit)

    (own, test), (others, train) = of("test", counts["test"]), of("train", most)
    nearest, similarity = face_scores.nearest(unit(test), unit(train))
    order = np.argsort(-similarity, kind="stable")[:PAIRS]
    return {
        "train": len(train),
        "test": len(test),
        "near": near,
        "count": int((similarity >= near).sum()),
        "median": float(np.median(similarity)),
        "pairs": [
            {
                "test": described(data, "test", int(own[row]), shown),
                "train": described(data, "train", int(others[nearest[row]]), shown),
                "similarity": round(float(similarity[row]), 6),
            }
            for row in order
        ],
    }


def unit(vectors: np.ndarray) -> np.ndarray:
    """The rows of [examples, features], of unit length; a zero row stays."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(lengths > 0, lengths, 1)


def described(data: Any, split: str, index: int, shown: bool) -> Mapping[str, Any]:
    """The index of an example and the fields that identify it, with its texts if they are `shown`."""
    fields = ("path", "clip", "name", "class", "person", *(("source", "text") if shown else ()))
    reference = data.reference(split, index)
    return {"index": index} | {key: reference[key] for key in fields if isinstance(reference.get(key), str | int)}
