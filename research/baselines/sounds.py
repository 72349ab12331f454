"""Speech recognition baselines: classifiers of whole recordings on log-mel spectrograms."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from research.baselines import scoring, texts, vectors
from research.baselines.base import Baseline, Predict, Scores

SEGMENTS = 20  # time segments over which a spectrogram is averaged, whatever its length
SHORTEST_MS, PAUSE_MS = 80, 50  # shortest word, and shortest pause between words
SVM_C = 10.0  # of the classifier of segments between pauses
LOUDNESS = (0.2, 0.3, 0.4, 0.5)  # the threshold of speech, between the quietest and the loudest frame


class Sounds:
    """Baselines on spectrograms; with `data.join`, they are fitted on the single recordings."""

    def __init__(self, task: Any, data: Any):
        self._task = task
        # The single recordings, from which joined ones are drawn.
        self._data = dataclasses.replace(data, spec=dataclasses.replace(data.spec, join=1))
        self._joined = data.spec.join > 1
        self._sounds: dict[str, list[np.ndarray]] = {}

    def baselines(self) -> list[Baseline]:
        """The most frequent transcript; classifiers, of segments between pauses if training joins recordings."""
        transcripts, recordings = self._transcripts(), self._features(self._split("train"))
        most = texts.most_common(transcripts.tolist())
        found = [Baseline("most frequent transcript", lambda value: lambda sounds: [most] * len(sounds))]
        frames, moments = f"{SEGMENTS} segments of the spectrogram", "mean and standard deviation of each mel band"
        if self._joined:
            return [
                *found,
                Baseline("support vector machine between pauses", self._between_pauses, "loudness", LOUDNESS),
            ]
        kinds = [vectors.neighbours(recordings, "moments", transcripts, moments, scaled=True)]
        if len(set(transcripts.tolist())) <= texts.MOST_CLASSES:
            kinds += [vectors.support_vectors(recordings, "moments", transcripts, moments, scaled=True)]
            kinds += [make(recordings, "segments", transcripts, frames) for make in _CLASSIFIERS]
        return found + [dataclasses.replace(kind, fit=self._of_sounds(kind)) for kind in kinds]

    def scores(self, split: str, predict: Predict) -> Scores:
        """Scores the transcript of each sound."""
        return scoring.written(self._task, self._data, split, predict(self._split(split)))

    def _split(self, split: str) -> list[np.ndarray]:
        """The samples of each sound."""
        if split not in self._sounds:
            source = self._data.source(split)
            self._sounds[split] = [source[index][0] for index in range(len(source))]
        return self._sounds[split]

    def _transcripts(self) -> np.ndarray:
        """The transcripts of train."""
        source, decode = self._data.source("train"), self._data.vocabulary.decode
        return np.array([decode(source[index][1]) for index in range(len(source))])

    def _features(self, sounds: Sequence[np.ndarray]) -> Mapping[str, np.ndarray]:
        """The features `segments` and `moments` of spectrograms, each with the logarithm of the length appended."""
        spectrograms = [self._data.eval_transform.mel(samples) for samples in sounds]
        length = np.log([[len(spectrogram)] for spectrogram in spectrograms])
        cut = np.stack([segment_means(spectrogram, SEGMENTS).ravel() for spectrogram in spectrograms])
        moments = np.stack([np.concatenate([each.mean(0), each.std(0)]) for each in spectrograms])
        return {"segments": np.hstack([cut, length]), "moments": np.hstack([moments, length])}

    def _of_sounds(self, kind: Baseline) -> Any:
        """The `fit` of a baseline on features as one whose predictor takes sounds."""

        def fit(value: Any) -> Predict:
            predict = kind.fit(value)
            return lambda sounds: list(predict(self._features(sounds)))

        return fit

    def _between_pauses(self, loudness: float) -> Predict:
        """Classifies each segment between pauses as if it were a recording."""
        recordings = self._features(self._split("train"))
        classify = vectors.support_vectors(recordings, "segments", self._transcripts()).fit(SVM_C)

        def predict(sounds: Sequence[np.ndarray]) -> list[str]:
            mel = self._data.eval_transform.mel
            parts = [spoken_parts(mel(samples).mean(1), loudness, mel.spec.hop_ms) for samples in sounds]
            pieces = [
                samples[start * mel.hop : end * mel.hop]
                for samples, of_sound in zip(sounds, parts, strict=True)
                for start, end in of_sound
            ]
            words = iter(classify(self._features(pieces)) if pieces else ())
            return [" ".join(next(words) for _ in of_sound) for of_sound in parts]

        return predict


_CLASSIFIERS = (vectors.neighbours, vectors.logistic_regression, vectors.support_vectors)


def segment_means(spectrogram: np.ndarray, count: int) -> np.ndarray:
    """The means of `count` equal segments of a spectrogram [frames, mels]; segments of a short one overlap."""
    edges = np.linspace(0, len(spectrogram), count + 1)
    first = np.minimum(np.floor(edges[:-1]).astype(int), len(spectrogram) - 1)
    last = np.maximum(np.ceil(edges[1:]).astype(int), first + 1)
    return np.stack([spectrogram[start:end].mean(0) for start, end in zip(first, last, strict=True)])


def spoken_parts(levels: np.ndarray, loudness: float, hop_ms: float) -> list[tuple[int, int]]:
    """The frame ranges of speech segments, by the level of each frame [frames].

    Speech is louder than `loudness` of the way from the quietest to the loudest frame. Shorter pauses than
    PAUSE_MS count as speech; shorter speech than SHORTEST_MS is dropped.
    """
    least, most = levels.min(), levels.max()
    active = np.concatenate([[0], levels > least + loudness * (most - least), [0]]).astype(int)
    starts, ends = np.flatnonzero(np.diff(active) == 1), np.flatnonzero(np.diff(active) == -1)
    parts: list[tuple[int, int]] = []
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        if parts and (start - parts[-1][1]) * hop_ms < PAUSE_MS:
            parts[-1] = parts[-1][0], end
        else:
            parts.append((start, end))
    return [(start, end) for start, end in parts if (end - start) * hop_ms >= SHORTEST_MS]
