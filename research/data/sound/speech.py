"""`load(spec)`: batches of log-mel spectrograms, and of transcripts as token ids."""

import dataclasses
import json
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from research.data import pipeline, recorded, sources
from research.data.sound import audio
from research.data.sound import files as sound_files
from research.data.sound.utterances import Joined, Subset, Utterances, UtterancesToArrays
from research.data.text import packing, templates, token_data, tokens
from research.data.text import vocabulary as vocabulary_lib
from research.measure import progress
from research.spec import Role, checks, field, invalid
from research.spec.contracts import Batches

_SECONDS = 86_400


class SpeechSpec(audio.MelSpec, audio.AugmentSpec, tokens.TokensSpec, tag="speech"):
    """Sounds and their transcripts. A training example may join several sounds of one speaker, with pauses."""

    target: str = field(default="{text}", doc="the transcript: a format string over the fields of the data set")
    join: int = field(
        default=1, check=checks.at_least(1) & checks.at_most(1000),
        doc="training examples join 1 to this many sounds; 1: off",
    )  # fmt: skip
    join_count: int = field(
        default=100_000, check=checks.at_least(1) & checks.at_most(1_000_000_000),
        doc="number of joined training examples, each a function of (join_seed, index)",
    )  # fmt: skip
    join_seed: int = field(default=0, check=checks.at_least(0) & checks.at_most(2**32 - 1), doc="seed of joining")
    pause_ms: tuple[float, ...] = field(
        default=(0.0, 200.0), check=checks.each(checks.between(0, 1e6)),
        doc="range of the pauses between joined sounds, in ms",
    )  # fmt: skip
    vocab_size: int = field(
        default=1000, check=tokens.VOCAB_SIZE, doc="size of the vocabulary and rows of the embedding"
    )
    vocab_coverage: float = field(
        default=1.0, check=tokens.VOCAB_COVERAGE, doc="share of the characters covered by the vocabulary"
    )
    byte_fallback: bool = field(default=False, doc="encode other characters as bytes (256 tokens) instead of unk")
    max_seconds: float = field(
        default=30.0, check=checks.at_least(0.1) & checks.at_most(_SECONDS), doc="longest example in s"
    )
    train_seconds: float = field(
        default=0.0, check=checks.at_least(0) & checks.at_most(_SECONDS),
        doc="longest training example in s, which is the row length in training; 0: max_seconds",
    )  # fmt: skip
    long_sounds: str = field(
        default="refuse", role=Role.INFERENCE, check=checks.one_of("refuse", "split"),
        doc="handling of longer sounds; refuse: an error; split: predict splits them, and training skips them, with a "
        "warning",
    )  # fmt: skip
    padding: str = field(
        default="masked", check=checks.one_of("masked", "silence"),
        doc="padding of rows: masked, or silence that the model attends to, as Whisper was trained",
    )  # fmt: skip
    cache: bool = field(
        default=False, role=Role.RUNTIME, doc="cache the samples of all sounds in memory, a copy in each worker"
    )

    def validate(self) -> None:
        """Raises FieldError for fields that contradict one another."""
        super().validate()
        if self.train_seconds > self.max_seconds:
            raise invalid(self, "train_seconds", f"must be at most max_seconds={self.max_seconds}")
        if len(self.pause_ms) != 2 or self.pause_ms[0] > self.pause_ms[1]:
            raise invalid(self, "pause_ms", "must be a lower and an upper limit, in ms")


@dataclasses.dataclass(frozen=True)
class Transcripts(tokens.Tokens):
    """tokens.Tokens of transcripts; the lengths and speakers of the sounds are stored too."""

    def fields(self, split: str, index: int) -> dict[str, Any]:
        """The raw fields of an example without its samples."""
        features, example = self.raw.builder.info.features, self._records[split][index]
        return {key: templates.plain(value, features[key]) for key, value in example.items() if key != "audio"}

    def seconds(self, split: str) -> np.ndarray:
        """The duration of each sound in s, float64 [examples]."""
        return np.array(self._sounds(split)["seconds"])

    def speakers(self, split: str) -> list[str]:
        """The speaker of each sound; "" if unknown."""
        return self._sounds(split)["speakers"]

    def _sounds(self, split):
        return json.loads((self.folder / f"{split}.sounds.json").read_text())

    def _text_bytes(self) -> int:
        # Records are mostly audio, so the size of the text is estimated as 100 characters per example.
        return 100 * self.counts["train"]

    def _tokenise(self, split, vocabulary, folder):
        super()._tokenise(split, vocabulary, folder)
        records, sounds = self.raw.source(split), {"seconds": [], "speakers": []}
        for index in progress.over(range(len(records)), f"{self.name} {split}: lengths", "examples"):
            example = records[index]
            sounds["seconds"].append(len(example["audio"]) / int(example["rate"]))
            sounds["speakers"].append(example["speaker"].decode())
        (folder / f"{split}.sounds.json").write_text(json.dumps(sounds))


@dataclasses.dataclass(frozen=True)
class Speech(token_data.TokenDataset):
    """Sounds and their transcripts. A batch holds, beside `index` and `weight`:

    source                              float32 [batch, frames, mels], zero-padded
    source_segments, source_positions   int32 [batch, frames / downsampling]: 1 and 0, 1, ... within the sound, else 0
                                        (with `padding` "silence", the sound fills the row)
    target, target_segments, target_positions   int32 [batch, target length]: tokens, ending in EOS, as in text.Text
    """

    prepared: Transcripts  # pyright: ignore[reportIncompatibleVariableOverride]  see TokenDataset
    train_transform: UtterancesToArrays
    eval_transform: UtterancesToArrays
    spec: SpeechSpec
    longest: int  # samples

    @property
    def cache(self) -> bool:
        """Whether the samples of all sounds are cached in memory."""
        return self.spec.cache

    @property
    def frames(self) -> int:
        """The number of frames of an evaluation row, enough for `max_seconds`."""
        return self.eval_transform.frames

    @property
    def counts(self) -> dict[str, int]:
        """Number of examples by split. Raises ValueError if one is too long, or if the data are not prepared."""
        self._kept  # noqa: B018  Raises.
        return self.prepared.counts

    @cached_property
    def _lengths(self) -> dict[str, np.ndarray]:
        """Split -> the numbers of frames and tokens of each example, [examples, 2]."""
        frames = lambda split: np.ceil(self.prepared.seconds(split) * 1000 / self.spec.hop_ms)
        return {
            split: np.stack([frames(split), self.prepared.lengths(split)[:, 1]], axis=1).astype(np.int64)
            for split in sources.SPLITS
        }

    @cached_property
    def _kept(self) -> np.ndarray:
        """The indices of the training examples that are not too long. Raises ValueError if one of another split is."""
        for split in sources.SPLITS:
            frames, lengths = self._lengths[split].T
            limit = self.eval_transform.target_length
            if (lengths > limit).any():
                count, most = (lengths > limit).sum(), lengths.max()
                what = f"{self.name}: {count:,} {split} transcripts are longer than target_length={limit} tokens"
                raise ValueError(f"{what}, the longest has {most:,}; raise config.data.target_length")
            field, most = ("train_seconds", self._train_frames) if split == "train" else ("max_seconds", self.frames)
            long = frames > most
            if not long.any():
                continue
            seconds = self.prepared.seconds(split).max()
            what = f"{self.name}: {long.sum():,} of {len(long):,} {split} sounds are longer than config.data.{field}"
            if split != "train" or self.spec.long_sounds == "refuse":
                raise ValueError(f"{what}, the longest {seconds:.1f} s; raise config.data.{field}")
            progress.say(f"{what} and are skipped, the longest {seconds:.1f} s")
        return np.flatnonzero(self._lengths["train"][:, 0] <= self._train_frames)

    @property
    def _train_frames(self):
        return self.train_transform.frames

    @property
    def mixes_examples(self) -> str:
        """See PreparedDataset."""
        return f"config.data.join={self.spec.join}" if self.spec.join != 1 else ""

    def source(self, split: str) -> Sequence[tuple[np.ndarray, np.ndarray]]:
        """The samples, at the rate of the config, and the token ids of each example of a split."""
        utterances = self.utterances(split)
        if split != "train":
            return utterances
        kept = self._kept
        if self.spec.join == 1:
            return Subset(utterances, kept)
        speakers = np.array(self.prepared.speakers(split))
        groups = [kept[speakers[kept] == speaker] for speaker in sorted(set(speakers[kept].tolist()))]
        lengths = 1000 * self.prepared.seconds(split), self._lengths[split][:, 1]
        settings = self.spec.join, self.spec.join_count, self.spec.join_seed, self.spec.pause_ms
        limits = self.train_transform.longest, self.train_transform.target_length
        return Joined(utterances, groups, *lengths, *settings, *limits)

    def utterances(self, split: str) -> Utterances:
        """As `source`, of all stored sounds, without joining."""
        examples = self.prepared.examples(split, (10**9, 10**9), keep_end=False)
        rate, cache = self.eval_transform.mel.rate, self.spec.cache
        return Utterances(self.prepared.raw.source(split), examples, rate, cache)

    def eval_batches(self, split: str, batch_size: int, rows: slice | Sequence[int] | None = None) -> Batches:
        """Yields rows `rows` (None: all) of batches that hold each example of a split once, in buckets by length.

        Padding has weight 0 and index -1.
        """
        limits, source = (self.frames, self.eval_transform.target_length), self.source(split)
        for shape, members in packing.buckets(self._lengths[split], limits, self.spec.eval_buckets):
            transform = self.eval_transform.shaped(*shape)
            chosen = Subset(source, members)
            for batch in pipeline.eval_batches(chosen, transform, batch_size, rows, self.workers, self.prefetch):
                position = batch["index"]
                yield {**batch, "index": np.where(position < 0, -1, members[position]).astype(np.int32)}

    def reference(self, split: str, index: int) -> dict[str, Any]:
        """The fields of example `index` of a split without its samples, and `references`: the accepted texts."""
        fields = self.prepared.fields(split, index)
        return {**fields, "references": self.prepared.template.accepted(fields)}

    def pieces(self, sound: sound_files.Sound, name: str) -> Sequence[np.ndarray]:
        """The samples of a sound at the rate of the config; split into several parts, with a warning, if too long.

        Raises ValueError for a sound that is too long unless `long_sounds` is "split".
        """
        mel = self.eval_transform.mel
        samples = audio.resample(sound.samples, sound.rate, mel.rate)
        if len(samples) <= self.longest:
            return [samples]
        longest = f"config.data.max_seconds={self.longest / mel.rate:g}"
        line = f"sound {name!r} is {len(samples) / mel.rate:.1f} s long, longer than {longest}"
        if self.spec.long_sounds == "refuse":
            raise ValueError(f"{line}; shorten it, or set config.data.long_sounds=split")
        parts = audio.pieces(samples, self.longest, mel.hop)
        progress.say(f"{line}: it is split into {len(parts)} parts")
        return parts

    def arrays(self, parts: Sequence[np.ndarray]) -> pipeline.Batch:
        """A batch of sounds without transcripts, for `predict`, in the smallest shape that fits all of them."""
        frames = max(self.eval_transform.mel.frames(len(part)) for part in parts)
        limits = self.frames, self.eval_transform.target_length
        ((shape, _),) = packing.buckets(np.array([[frames, 1]]), limits, self.spec.eval_buckets)
        transform = self.eval_transform.shaped(shape[0], limits[1])
        rows = [transform((part, np.array([], np.int32))) for part in parts]
        count = {"index": np.arange(len(rows), dtype=np.int32), "weight": np.ones(len(rows), np.float32)}
        return {name: np.stack([row[name] for row in rows]) for name in rows[0]} | count


def load(spec: SpeechSpec, downsampling: int = 1, known: recorded.Recorded | None = None) -> Speech:
    """The data set that `spec` describes; nothing is prepared, and no example is read yet.

    Args:
        spec: The config of the data.
        downsampling: Frames per encoder position.
        known: As in classification.load.

    Raises:
        ValueError: Unknown name or template field, or invalid setting.
    """
    mel = audio.LogMel(spec)
    builder = known or sources.open_builder(spec.name, spec.dir)
    if "audio" not in builder.info.features:
        raise ValueError(
            f"config.data.name={spec.name!r} has the features {', '.join(builder.info.features)}; the feature audio is "
            "needed"
        )
    template = templates.Template(spec.target, spec.target, templates.REFERENCES)
    template.check(spec.name, builder.info.features)
    settings = vocabulary_lib.Settings(spec.vocab_size, spec.vocab_type, spec.vocab_coverage, spec.byte_fallback)
    raw = sources.Prepared(builder, spec.name, spec.validation_fraction, spec.fit_on, group=spec.group, half=spec.half)
    longest = round(spec.max_seconds * mel.rate)
    longest_train = round((spec.train_seconds or spec.max_seconds) * mel.rate)
    transform = UtterancesToArrays(mel, 0, spec.target_length, downsampling, silence=spec.padding == "silence")
    transform = transform.shaped(mel.frames(longest))
    train_transform = transform.shaped(mel.frames(longest_train))
    return Speech(
        prepared=Transcripts(raw, template, settings, known.vocabulary if known else spec.vocabulary),
        train_transform=dataclasses.replace(train_transform, augment=audio.Augment(spec), longest=longest_train),
        eval_transform=transform,
        workers=spec.workers,
        prefetch=spec.prefetch,
        spec=spec,
        longest=longest,
    )


def encoder_lengths(spec: SpeechSpec, downsampling: int) -> tuple[int, int]:
    """The number of encoder positions of a training row and of the longest sound; the data need not be prepared."""
    mel = audio.LogMel(spec)
    frames = (mel.frames(round(each * mel.rate)) for each in (spec.train_seconds or spec.max_seconds, spec.max_seconds))
    train, longest = (-(-each // downsampling) for each in frames)
    return train, longest
