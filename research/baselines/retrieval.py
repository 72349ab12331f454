"""Retrieval baselines: candidates ranked by TF-IDF, by BM25, or by the encoder before training."""

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

import jax
import numpy as np

from research.baselines.base import Baseline, Predict, Scores
from research.baselines.texts import CHUNK, tf_idf, words
from research.parallel import mesh as mesh_lib
from research.train import evaluation
from research.train.program import build_program
from research.train.session import LoadWeights

B = 0.75  # of BM25: strength of the normalisation by the length of candidates


class Retrieval:
    """The retrieval baselines; `Predict` maps the name of a split to chunks of similarities [texts, candidates]."""

    def __init__(self, task: Any, data: Any, config: Any = None, load_weights: LoadWeights | None = None):
        """With `load_weights`, the weights of `config.train.init_from` are measured too."""
        self._task, self._data, self._config, self._load = task, data, config, load_weights

    def baselines(self) -> list[Baseline]:
        """TF-IDF, BM25 and, if training starts from `config.train.init_from`, the encoder with these weights."""
        found = [
            Baseline("cosine of TF-IDF", self._tf_idf, "longest n-gram", (1, 2)),
            Baseline("BM25", self._bm25, "k1", (0.1, 0.4, 0.8, 1.6)),
        ]
        if self._load is not None and self._config.train.init_from:
            found.append(Baseline("the encoder before training", lambda value: self._encoded))
        return found

    def scores(self, split: str, predict: Predict) -> Scores:
        """Ranks the candidates of a split for each example, as the task does."""
        scorer = self._task.scorer(self._data, split)
        return Scores(scorer.rank(predict(split)), scorer.signatures, scorer)

    def _texts(self, split: str) -> list[str]:
        return [str(self._data.reference(split, index)["source"]) for index in range(self._data.counts[split])]

    def _candidates(self, split: str) -> list[str]:
        return [str(self._data.reference(split, index)["target"]) for index in self._data.firsts(split).tolist()]

    def _tf_idf(self, longest: int) -> Predict:
        """Cosines of TF-IDF vectors, with the vocabulary and document frequencies of the candidates."""

        def predict(split: str) -> Iterable[np.ndarray]:
            vectors, candidates = tf_idf(longest), self._candidates(split)
            known = vectors.fit_transform(candidates)
            return _products(vectors.transform(self._texts(split)), known)

        return predict

    def _bm25(self, k1: float) -> Predict:
        return lambda split: _products(*bm25(self._texts(split), self._candidates(split), k1))

    def _encoded(self, split: str) -> Iterable[np.ndarray]:
        program, variables = self._program
        scorer, size = self._task.scorer(self._data, split), self._config.train.eval_batch_size
        evaluation.evaluate(program, self._task, self._data, variables, split, size, scorer=scorer)
        return scorer.similarities()

    @cached_property
    def _program(self) -> tuple[Any, Any]:
        """The program on one device, and the initial variables of training."""
        assert self._load is not None  # else there is no such baseline
        mesh = mesh_lib.make_mesh(dict.fromkeys(mesh_lib.AXES, 1), jax.devices()[:1])
        program = build_program(self._config, self._task, mesh)
        weights = self._load(self._config.train, self._task, program, self._data)
        return program, weights.state(program.init()).variables


def bm25(texts: Sequence[str], candidates: Sequence[str], k1: float) -> tuple[Any, Any]:
    """Sparse matrices [texts, words] and [candidates, words] whose product is BM25 (Robertson and Zaragoza, 2009).

    Repeated words of a text count repeatedly; the weight of a word is log(1 + (N - n + 0.5) / (n + 0.5)), which is
    never negative, if n of N candidates contain it.
    """
    from scipy import sparse
    from sklearn.feature_extraction.text import CountVectorizer

    counter = CountVectorizer(tokenizer=words, token_pattern=None, lowercase=False)  # pyright: ignore[reportArgumentType]
    counts = sparse.coo_matrix(counter.fit_transform(candidates), dtype=np.float64)
    shape = len(candidates), len(counter.vocabulary_)
    held = np.bincount(counts.col, minlength=shape[1])  # number of candidates with each word
    weight = np.log1p((len(candidates) - held + 0.5) / (held + 0.5))
    lengths = np.bincount(counts.row, counts.data, minlength=len(candidates))
    norm = k1 * (1 - B + B * lengths / lengths.mean())
    values = counts.data * (k1 + 1) / (counts.data + norm[counts.row]) * weight[counts.col]
    scored = sparse.csr_matrix((values, (counts.row, counts.col)), shape)
    return sparse.csr_matrix(counter.transform(texts), dtype=np.float64), scored


def _products(queries: Any, candidates: Any) -> Iterable[np.ndarray]:
    for begin in range(0, queries.shape[0], CHUNK):
        yield (queries[begin : begin + CHUNK] @ candidates.T).toarray()
