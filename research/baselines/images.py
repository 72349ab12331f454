"""Image classification baselines: classifiers on pixels."""

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

import numpy as np

from research.baselines import scoring, vectors
from research.baselines.base import SEED, Baseline

DIMENSIONS = 200  # images with more pixels are reduced to these by PCA
MOST_VALUES = 500_000_000  # pixels of all images that PCA is fitted on, 2 GB


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
        reduce = self._pca.transform if self._reduced else lambda pixels: pixels
        return {"pixels": np.concatenate([reduce(part) for part in pixel_batches(self._data, split)])}

    @property
    def _reduced(self) -> bool:
        return int(np.prod(self._data.image_shape)) > DIMENSIONS

    @cached_property
    def _pca(self) -> Any:
        """Fitted on a part of train that fits into memory."""
        from sklearn.decomposition import PCA

        fitting = max(MOST_VALUES // int(np.prod(self._data.image_shape)), DIMENSIONS)
        chosen = vectors.subset(self._data.counts["train"], min(vectors.MOST_EXAMPLES, fitting))
        kept, begin = [], 0
        for part in pixel_batches(self._data, "train"):
            kept.append(part[chosen[(chosen >= begin) & (chosen < begin + len(part))] - begin])
            begin += len(part)
        return PCA(min(DIMENSIONS, len(chosen)), random_state=SEED).fit(np.concatenate(kept))


def pixel_batches(data: Any, split: str, batch_size: int = 256) -> Iterator[np.ndarray]:
    """The normalised evaluation images of a split, in batches: float32 [examples, pixels]."""
    for batch in data.eval_batches(split, batch_size):
        images = batch["image"][batch["index"] >= 0]
        yield ((images - np.float32(data.mean)) / np.float32(data.std)).reshape(len(images), -1)
