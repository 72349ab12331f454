"""Utterances, pairs of samples and token ids: of a prepared split, a subset or joined; conversion to arrays."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from research.data.sound import audio, joining
from research.data.sound import files as sound_files
from research.data.text import packing

Utterance = tuple[np.ndarray, np.ndarray]  # float32 [samples], int32 [tokens] with EOS


class Utterances(Sequence[Utterance]):
    """The utterances of stored records, resampled to `rate` Hz, with their tokens; `cache` keeps them in memory."""

    def __init__(
        self, records: Sequence[Mapping[str, Any]], examples: Sequence[packing.Example], rate: int, cache: bool = False
    ):
        self._records, self._examples, self.rate = records, examples, rate
        self._kept: dict[int, np.ndarray] | None = {} if cache else None

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Utterance:  # pyright: ignore[reportIncompatibleMethodOverride]  no slices
        return self._samples(index), self._examples[index][1]

    def _samples(self, index: int) -> np.ndarray:
        if self._kept and index in self._kept:
            return self._kept[index]
        record = self._records[index]
        samples = audio.resample(sound_files.to_float(record["audio"]), int(record["rate"]), self.rate)
        if self._kept is not None:
            self._kept[index] = samples
        return samples


class Subset(Sequence[Utterance]):
    """The utterances with the indices `members`."""

    def __init__(self, utterances: Sequence[Utterance], members: np.ndarray):
        self._utterances, self._members = utterances, members

    def __len__(self) -> int:
        return len(self._members)

    def __getitem__(self, index: int) -> Utterance:  # pyright: ignore[reportIncompatibleMethodOverride]  no slices
        return self._utterances[int(self._members[index])]


class Joined(Sequence[Utterance]):
    """`count` examples, each joined from 1 to `most` utterances of one speaker as a function of (seed, index).

    `groups` are the indices of the utterances of each speaker; `lengths_ms` and `tokens` are the lengths of each
    utterance and of its transcript with EOS. A joined example has at most `longest` samples and `most_tokens` tokens.
    """

    def __init__(
        self,
        utterances: Utterances,
        groups: Sequence[np.ndarray],
        lengths_ms: np.ndarray,
        tokens: np.ndarray,
        most: int,
        count: int,
        seed: int,
        pause_ms: Sequence[float],
        longest: int,
        most_tokens: int,
    ):
        self._utterances, self._groups, self._lengths_ms = utterances, groups, lengths_ms
        self._tokens, self._most_tokens = tokens, most_tokens
        self._most, self._count, self._seed, self._pause_ms = most, count, seed, pause_ms
        self._longest_ms = 1000 * longest / utterances.rate

    def __len__(self) -> int:
        return self._count

    def plan(self, index: int) -> joining.JoinPlan:
        """The utterances of example `index`, and the pauses around them."""
        rng = np.random.default_rng([self._seed, index])
        group = self._groups[int(rng.integers(len(self._groups)))]
        longest_ms = self._longest_ms - 1  # for rounding
        plan = joining.draw(rng, group, self._most, self._pause_ms, self._lengths_ms, longest_ms, long=True)
        written = 1 + np.cumsum(self._tokens[list(plan.parts)] - 1)
        kept = max(1, int(np.count_nonzero(written <= self._most_tokens)))
        return joining.JoinPlan(plan.parts[:kept], plan.pauses_ms[: kept + 1])

    def __getitem__(self, index: int) -> Utterance:  # pyright: ignore[reportIncompatibleMethodOverride]  no slices
        plan = self.plan(index)
        sounds, ids = zip(*(self._utterances[part] for part in plan.parts), strict=True)
        # No token crosses a space, so the tokens of concatenated transcripts are the concatenated tokens.
        joined = np.concatenate([*(part[:-1] for part in ids), ids[-1][-1:]])
        return joining.join(sounds, plan.pauses_ms, self._utterances.rate), joined


@dataclasses.dataclass(frozen=True)
class UtterancesToArrays:
    """Converts an utterance to the arrays of speech.Speech.

    Attributes:
        mel: The spectrogram.
        frames: The frames of a row.
        target_length: The tokens of a row.
        downsampling: Frames per encoder position.
        augment: Random augmentation of the sound and its spectrogram; None: none.
        longest: The most samples after speed perturbation.
        silence: Pad rows with silence that the model attends to, instead of masked padding.
    """

    mel: audio.LogMel
    frames: int
    target_length: int
    downsampling: int
    augment: audio.Augment | None = None
    longest: int = 0
    silence: bool = False

    def shaped(self, frames: int, target_length: int = 0) -> "UtterancesToArrays":
        """The same for other row lengths; `frames` is rounded up to a multiple of `downsampling`."""
        frames = -(-frames // self.downsampling) * self.downsampling
        return dataclasses.replace(self, frames=frames, target_length=target_length or self.target_length)

    def __call__(self, utterance: Utterance, rng: np.random.Generator | None = None) -> dict[str, np.ndarray]:
        """The arrays of an utterance, with random augmentation from `rng`."""
        samples, ids = utterance
        warp = 1.0
        if self.augment and rng is not None:
            samples, warp = self.augment.sound(samples, rng, self.longest), self.augment.warp(rng)
        if self.silence:
            samples = np.pad(samples, (0, max(0, self.frames * self.mel.hop - len(samples))))
        features = self.mel(samples, warp)[: self.frames]
        if self.augment and rng is not None:
            features = self.augment.spectrogram(features, rng)
        source = np.zeros((self.frames, self.mel.spec.mels), np.float32)
        source[: len(features)] = features
        positions = np.arange(self.frames // self.downsampling, dtype=np.int32)
        mask = (positions < -(-len(features) // self.downsampling)).astype(np.int32)
        target = packing.arrays("target", [ids], self.target_length)
        return {"source": source, "source_segments": mask, "source_positions": positions * mask, **target}
