"""Labelled images: classifiers over pixels."""

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np

from research.baselines import scoring, vectors
from research.baselines.base import SEED, Baseline

DIMENSIONS = 200  # images with more pixels are reduced to these by PCA


class Images(scoring.LabelledBaselines):
    """Baselines on pixels, transformed as for evaluation; PCA, if needed, is fitted on train."""

    def baselines(self) -> list[Baseline]:
        """The most frequent class, logistic regression, nearest neighbours and a support vector machine."""
        labels, train = scoring.labels(self._data, "train"), self.features("train")
        of = f"{DIMENSIONS} principal components of pixels" if self._reduced else "pixels"
        kinds = (vectors.logistic_regression, vectors.neighbours, vectors.support_vectors)
        return [vectors.most_frequent(labels), *(kind(train, "pixels", labels, of) for kind in kinds)]

    def make_features(self, split: str) -> Mapping[str, np.ndarray]:
        """`pixels`, or their principal components."""
        pixels = pixels_of(self._data, split)
        return {"pixels": self._pca.transform(pixels) if self._reduced else pixels}

    @property
    def _reduced(self) -> bool:
        return int(np.prod(self._data.image_shape)) > DIMENSIONS

    @cached_property
    def _pca(self) -> Any:
        from sklearn.decomposition import PCA

        pixels = pixels_of(self._data, "train")
        chosen = vectors.subset(len(pixels), vectors.MOST_EXAMPLES)
        return PCA(min(DIMENSIONS, len(chosen)), random_state=SEED).fit(pixels[chosen])


def pixels_of(data: Any, split: str, batch_size: int = 256) -> np.ndarray:
    """The normalised evaluation images of a split: float32 [examples, pixels]."""
    rows = []
    for batch in data.eval_batches(split, batch_size):
        images = batch["image"][batch["index"] >= 0]
        rows.append(((images - np.float32(data.mean)) / np.float32(data.std)).reshape(len(images), -1))
    return np.concatenate(rows)
