"""`load(config.data)`: sounds as log-mel spectrograms, and what is said in them as token ids, batch by batch."""

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from research.data import audio, datasets, packing, pipeline, recorded, sound_files, sources, templates, tokens
from research.data import vocabulary as vocabulary_lib
from research.data.utterances import Joined, Subset, ToArrays, Utterances
from research.measure import progress

LONG = ("refuse", "split")
PADDING = ("masked", "silence")
_MEL = ("window_ms", "hop_ms", "mels", "lowest_hz", "highest_hz", "pre_emphasis", "range_db", "normalise", "edges")
_AUGMENT = tuple(field.name for field in dataclasses.fields(audio.Augment))

DEFAULTS: dict[str, Any] = {
    "name": "",  # see sources.py
    "dir": "",  # where prepared data lie; "" is $TFDS_DATA_DIR or ~/tensorflow_datasets
    "validation_fraction": 0.1,  # of train, held out where the data set has no validation split
    "target": "{text}",  # what is to be written: a format string over the data set's fields
    # Spectrograms, see audio.LogMel. Sounds at another rate are resampled.
    "sample_rate": 16_000,  # Hz
    **{field.name: field.default for field in dataclasses.fields(audio.LogMel) if field.name in _MEL},
    # Augmentation while training, see audio.Augment.
    **{field.name: field.default for field in dataclasses.fields(audio.Augment)},
    # Training examples are made of 1 to `join` sounds of one speaker with pauses, where `join` is not 1: `join_count`
    # of them, each a function of (join_seed, index).
    "join": 1,
    "join_count": 100_000,
    "join_seed": 0,
    "pause_ms": (0.0, 200.0),
    # The vocabulary, see vocabulary.Settings.
    "vocabulary": "",  # a sentencepiece .model file; "": one is trained
    "vocab_size": 1000,
    "vocab_type": "unigram",
    "vocab_coverage": 1.0,
    "byte_fallback": False,
    # The longest that an example may be.
    "max_seconds": 30.0,
    "train_seconds": 0.0,  # and that one to learn from may be, which is as long as a row; 0: max_seconds
    "target_length": 128,  # tokens, EOS included
    "long_sounds": "refuse",  # or "split": predict cuts what is longer, training leaves it out, both with a warning
    "eval_buckets": 3,  # shapes of evaluation batches, from these lengths down by halves
    "padding": "masked",  # or "silence": what follows a sound in its row is heard, as by Whisper, which was trained so
    # Speed, never content. `cache` keeps the samples of every sound in memory, a copy in each worker.
    "cache": False,
    "workers": 0,
    "prefetch": 2,
}


@dataclasses.dataclass(frozen=True)
class Transcripts(tokens.Tokens):
    """As tokens.Tokens, of what is said in sounds; the lengths and the speakers of the sounds lie beside the tokens."""

    def fields(self, split: str, index: int) -> dict[str, Any]:
        """The raw fields of an example but for its samples."""
        features, example = self.raw.builder.info.features, self._records[split][index]
        return {key: templates.plain(value, features[key]) for key, value in example.items() if key != "audio"}

    def seconds(self, split: str) -> np.ndarray:
        """How long each sound is, float64 [examples]."""
        return np.array(self._sounds(split)["seconds"])

    def speakers(self, split: str) -> list[str]:
        """Who speaks in each of them; "" where that is not known."""
        return self._sounds(split)["speakers"]

    def _sounds(self, split):
        return json.loads((self.folder / f"{split}.sounds.json").read_text())

    def _text_bytes(self) -> int:
        # Nearly all of a record is sound: what its text takes is guessed, a hundred letters a sentence.
        return 100 * self.counts["train"]

    def _tokenise(self, split, words, folder):
        super()._tokenise(split, words, folder)
        records, said = self.raw.source(split), {"seconds": [], "speakers": []}
        for index in progress.over(range(len(records)), f"{self.name} {split}: lengths", "examples"):
            example = records[index]
            said["seconds"].append(len(example["audio"]) / int(example["rate"]))
            said["speakers"].append(example["speaker"].decode())
        (folder / f"{split}.sounds.json").write_text(json.dumps(said))


@dataclasses.dataclass(frozen=True)
class Speech(datasets.Dataset):
    """Sounds and what is said. A batch holds, beside `index` and `weight`:

    source                              float32 [batch, frames, mels], 0 after the sound
    source_segments, source_positions   int32 [batch, frames / shortening]: 1 and 0, 1, ... where there is sound, else 0
                                        (with `padding` "silence", which is heard, there is sound everywhere)
    target, target_segments, target_positions   int32 [batch, target length]: tokens, ending in EOS, as in text.Text
    """

    prepared: Transcripts
    longest: int  # samples
    long_sounds: str
    join: int
    join_count: int
    join_seed: int
    pause_ms: tuple[float, ...]
    eval_buckets: int
    cache: bool

    @property
    def is_prepared(self) -> bool:
        """Whether its examples are there to be read; their tokens are made when they are needed."""
        return sources.is_prepared(self.prepared.raw.builder)

    def record(self, folder: Path) -> None:
        """As in Dataset, with the vocabulary."""
        recorded.write(folder, recorded.describe(self.prepared.raw.builder), self.vocabulary.serialized)

    @property
    def vocabulary(self) -> vocabulary_lib.Vocabulary:
        """Between text and ids; its `size` and special ids are known before the data set is prepared."""
        return self.prepared.vocabulary

    @property
    def frames(self) -> int:
        """The frames of the longest example."""
        return self.eval_transform.frames

    @property
    def places(self) -> int:
        """What the encoder makes of a training row."""
        return self.train_transform.frames // self.train_transform.shortening

    @property
    def counts(self) -> dict[str, int]:
        """Examples in train, validation and test. Raises ValueError where one is too long, or nothing is prepared."""
        self._kept  # noqa: B018  Raises.
        return self.prepared.counts

    @cached_property
    def _lengths(self) -> dict[str, np.ndarray]:
        """Split -> frames and tokens of each example, [examples, 2]."""
        frames = lambda split: np.ceil(self.prepared.seconds(split) * 1000 / self.eval_transform.mel.hop_ms)
        return {
            split: np.stack([frames(split), self.prepared.lengths(split)[:, 1]], axis=1).astype(np.int64)
            for split in sources.SPLITS
        }

    @cached_property
    def _kept(self) -> np.ndarray:
        """The training examples that are used. Raises ValueError for one of another split that is too long."""
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
            what = f"{self.name}: {long.sum():,} of {len(long):,} {split} sounds are longer than data.{field}"
            if split != "train" or self.long_sounds == "refuse":
                raise ValueError(f"{what}, the longest {seconds:.1f} s; raise config.data.{field}")
            progress.say(f"{what} and are left out, the longest {seconds:.1f} s")
        return np.flatnonzero(self._lengths["train"][:, 0] <= self._train_frames)

    @property
    def _train_frames(self):
        return self.train_transform.frames

    def source(self, split: str) -> Sequence[tuple[np.ndarray, np.ndarray]]:
        """Samples, at the rate of the config, and token ids of each example of a split."""
        examples = self.prepared.examples(split, (10**9, 10**9), keep_end=False)
        utterances = Utterances(self.prepared.raw.source(split), examples, self.eval_transform.mel.rate, self.cache)
        if split != "train":
            return utterances
        kept = self._kept
        if self.join == 1:
            return Subset(utterances, kept)
        speakers = np.array(self.prepared.speakers(split))
        groups = [kept[speakers[kept] == speaker] for speaker in sorted(set(speakers[kept].tolist()))]
        lengths = 1000 * self.prepared.seconds(split), self._lengths[split][:, 1]
        settings = self.join, self.join_count, self.join_seed, self.pause_ms
        limits = self.train_transform.longest, self.train_transform.target_length
        return Joined(utterances, groups, *lengths, *settings, *limits)

    def eval_batches(
        self, split: str, batch_size: int, rows: slice | Sequence[int] | None = None
    ) -> Iterator[pipeline.Batch]:
        """Rows `rows` (None: all) of batches that hold each example of a split once, short ones first.

        Padding has weight 0 and index -1.
        """
        limits, source = (self.frames, self.eval_transform.target_length), self.source(split)
        for shape, members in packing.buckets(self._lengths[split], limits, self.eval_buckets):
            transform = self.eval_transform.shaped(*shape)
            chosen = Subset(source, members)
            for batch in pipeline.eval_batches(chosen, transform, batch_size, rows, self.workers, self.prefetch):
                position = batch["index"]
                yield {**batch, "index": np.where(position < 0, -1, members[position]).astype(np.int32)}

    def reference(self, split: str, index: int) -> dict[str, Any]:
        """The fields of example `index` of a split but for its samples, and `references`: the accepted texts."""
        fields = self.prepared.fields(split, index)
        return {**fields, "references": self.prepared.template.accepted(fields)}

    def pieces(self, sound: sound_files.Sound, name: str) -> Sequence[np.ndarray]:
        """The samples of a sound at the rate of the config; several parts, with a warning, where it is too long.

        Raises ValueError for one that is too long unless the config says "split".
        """
        mel = self.eval_transform.mel
        samples = audio.resample(sound.samples, sound.rate, mel.rate)
        if len(samples) <= self.longest:
            return [samples]
        line = f"sound {name!r} is {len(samples) / mel.rate:.1f} s long; data.max_seconds={self.longest / mel.rate:g}"
        if self.long_sounds == "refuse":
            raise ValueError(f"{line}; cut it, or set config.data.long_sounds=split")
        parts = audio.pieces(samples, self.longest, mel.hop)
        progress.say(f"{line}: it is split into {len(parts)} parts")
        return parts

    def arrays(self, parts: Sequence[np.ndarray]) -> pipeline.Batch:
        """The arrays of samples without a transcript, for `predict`: in the smallest shape that holds them all."""
        frames = max(self.eval_transform.mel.frames(len(part)) for part in parts)
        limits = self.frames, self.eval_transform.target_length
        ((shape, _),) = packing.buckets(np.array([[frames, 1]]), limits, self.eval_buckets)
        transform = self.eval_transform.shaped(shape[0], limits[1])
        rows = [transform((part, np.array([], np.int32))) for part in parts]
        count = {"index": np.arange(len(rows), dtype=np.int32), "weight": np.ones(len(rows), np.float32)}
        return {name: np.stack([row[name] for row in rows]) for name in rows[0]} | count


def load(config: Mapping[str, Any], shortening: int = 1, known: recorded.Recorded | None = None) -> Speech:
    """The sounds that `config` (see DEFAULTS) describes; no example is read yet.

    A folder that has not been prepared, or that changed since, is prepared here; any other data set says how to
    prepare it when its counts or its examples are asked for. The encoder has one place for `shortening` frames.
    Raises ValueError for an unknown name or field of a template, and for a bad setting.
    """
    config = {**DEFAULTS, **config}
    mel = audio.LogMel(config["sample_rate"], **{key: config[key] for key in _MEL})
    augment = audio.Augment(**{key: config[key] for key in _AUGMENT})
    _check(config)
    builder = known or sources.open_builder(config["name"], config["dir"])
    if "audio" not in builder.info.features:
        raise ValueError(
            f"config.data.name={config['name']!r} holds no sounds, only {', '.join(builder.info.features)}"
        )
    template = templates.Template(config["target"], config["target"], templates.REFERENCES)
    template.check(config["name"], builder.info.features)
    builder = datasets.prepared(builder, config)
    settings = vocabulary_lib.Settings(
        config["vocab_size"], config["vocab_type"], config["vocab_coverage"], config["byte_fallback"]
    )
    raw = sources.Prepared(builder, config["name"], config["validation_fraction"])
    prepared = Transcripts(raw, template, settings, known.vocabulary if known else config["vocabulary"])
    longest, longest_to_learn = (
        round(seconds * mel.rate)
        for seconds in (config["max_seconds"], config["train_seconds"] or config["max_seconds"])
    )
    transform = ToArrays(mel, 0, config["target_length"], shortening, silence=config["padding"] == "silence")
    transform = transform.shaped(mel.frames(longest))
    to_learn = transform.shaped(mel.frames(longest_to_learn))
    rest = (
        "long_sounds",
        "join",
        "join_count",
        "join_seed",
        "pause_ms",
        "eval_buckets",
        "cache",
        "workers",
        "prefetch",
    )
    return Speech(
        prepared=prepared,
        train_transform=dataclasses.replace(to_learn, augment=augment, longest=longest_to_learn),
        eval_transform=transform,
        longest=longest,
        **{key: config[key] for key in rest},
    )


def make_tokens(config: Mapping[str, Any]) -> str:
    """Makes the vocabulary and the tokens of `load(config)` unless that is done; returns what to tell the user."""
    prepared = load(config).prepared
    words, folder = prepared.vocabulary, prepared.folder
    return f"{prepared.name}: {words.pieces:,} tokens, vocabulary {words.digest}, in {folder}"


def _check(config):
    least = {"workers": 0, "prefetch": 0, "eval_buckets": 1, "target_length": 2, "join": 1, "join_count": 1}
    for key, value in {**least, "join_seed": 0, "max_seconds": 0.1, "train_seconds": 0}.items():
        if config[key] < value:
            raise ValueError(f"config.data.{key}={config[key]} must be at least {value}")
    if config["train_seconds"] > config["max_seconds"]:
        most = f"max_seconds={config['max_seconds']}"
        raise ValueError(f"config.data.train_seconds={config['train_seconds']} must be at most {most}")
    for field, choices in (("long_sounds", LONG), ("padding", PADDING)):
        if config[field] not in choices:
            raise ValueError(f"config.data.{field}={config[field]!r} is unknown; choose {' or '.join(choices)}")
    pauses = config["pause_ms"]
    if len(pauses) != 2 or not 0 <= pauses[0] <= pauses[1]:
        raise ValueError(f"config.data.pause_ms={pauses} must be the least and the most, in ms")
    if not 0 < config["validation_fraction"] < 0.5:
        raise ValueError(f"config.data.validation_fraction={config['validation_fraction']} must lie between 0 and 0.5")
