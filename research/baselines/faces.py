"""Face recognition baselines: linear embeddings of pixels, compared by cosine similarity like those of networks."""

import dataclasses
import functools
from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np

from research.baselines import images
from research.baselines.base import SEED, Baseline, Predict, Scores
from research.data.images.spec import ILLUMINATIONS

COMPONENTS = (50, 100, 150, 200)
Pixels = Callable[[str], np.ndarray]  # from an illumination normalisation to images [images, pixels]


class FaceBaselines:
    """Baselines for faces; embeddings are normalised, and averaged over flips if the task does so (`flip_tta`)."""

    def __init__(self, task: Any, data: Any):
        self._task, self._data = task, data
        self._pixels = functools.cache(self._read)

    def baselines(self) -> list[Baseline]:
        """Pixels minus the mean image, PCA (Turk and Pentland, 1991), PCA and LDA (Belhumeur et al., 1997).

        PCA and LDA with each illumination normalisation, since the best one for a network may not be best for them.
        """
        own = self._data.eval_transform.illumination
        lda = lambda illumination: lambda count: self._lda(illumination, count)
        return [
            Baseline("pixels about the mean image", lambda value: lambda pixels: pixels(own) - self._mean),
            Baseline("PCA", lambda count: self._pca(own, count), "components", self._components),
            *(
                Baseline(f"PCA and LDA, illumination={each}", lda(each), "components of PCA", self._components)
                for each in sorted(ILLUMINATIONS, key=lambda each: each != own)
            ),
        ]

    def scores(self, split: str, predict: Predict) -> Scores:
        """Scores the embeddings of a split and, for identification, of its gallery."""
        scorer = self._task.scorer(self._data, split)
        if scorer is None:
            raise ValueError("config.task.metrics=() is empty, so no baseline can be scored; name a metric")
        embeddings = unit(predict(lambda illumination: self._pixels(split, illumination)))
        if self._task.spec.flip_tta:
            embeddings = unit(embeddings + unit(predict(lambda illumination: self._mirrored(split, illumination))))
        scorer.add({"index": np.arange(len(embeddings)), "embedding": embeddings})
        return Scores(scorer.result(), scorer.signatures, scorer)

    def _read(self, split: str, illumination: str) -> np.ndarray:
        transform = dataclasses.replace(self._data.eval_transform, illumination=illumination)
        data = dataclasses.replace(self._data, eval_transform=transform)
        return np.concatenate(list(images.pixel_batches(data, split)))

    def _mirrored(self, split: str, illumination: str) -> np.ndarray:
        pixels = self._pixels(split, illumination)
        return pixels.reshape(-1, *self._data.image_shape)[:, :, ::-1].reshape(len(pixels), -1)

    def _train(self, illumination: str) -> np.ndarray:
        """The training images and their mirror images."""
        return np.concatenate([self._pixels("train", illumination), self._mirrored("train", illumination)])

    @cached_property
    def _mean(self) -> np.ndarray:
        return self._train(self._data.eval_transform.illumination).mean(0)

    @property
    def _components(self) -> tuple[int, ...]:
        """COMPONENTS, limited by the numbers of training images and pixels."""
        most = min(self._data.counts["train"], int(np.prod(self._data.image_shape)))
        return tuple(dict.fromkeys(min(count, most) for count in COMPONENTS))

    def _pca(self, illumination: str, count: int) -> Predict:
        from sklearn.decomposition import PCA

        reduce = PCA(count, random_state=SEED).fit(self._train(illumination)).transform
        return lambda pixels: reduce(pixels(illumination))

    def _lda(self, illumination: str, count: int) -> Predict:
        from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

        reduce = self._pca(illumination, count)
        people = [self._data.reference("train", index)["label"] for index in range(self._data.counts["train"])]
        train = reduce(self._train)
        lda = LinearDiscriminantAnalysis().fit(train, people + people)
        return lambda pixels: lda.transform(reduce(pixels))


def unit(rows: np.ndarray) -> np.ndarray:
    """`rows` at length 1; zero rows are unchanged."""
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
