"""Base class of all data sets: splits that are prepared once, and the transforms of their examples."""

import dataclasses
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from research.data import pipeline, prepare, recorded, sources
from research.spec.contracts import Batches, DatasetInfo


class TrainTransform(Protocol):
    """Converts a training example to arrays, with random augmentation."""

    def __call__(self, example: Any, rng: np.random.Generator, /) -> pipeline.Batch:
        """The arrays of one example, of fixed shape."""
        ...


class EvalTransform(Protocol):
    """Converts an example to arrays, deterministically."""

    def __call__(self, example: Any, /) -> pipeline.Batch:
        """The arrays of one example, of fixed shape."""
        ...


@dataclasses.dataclass(frozen=True)
class PreparedDataset:
    """A data set on disk and the transforms of its examples; implements spec.contracts.Dataset for any kind of data.

    `train_transform(example, rng)` and `eval_transform(example)` return dicts of arrays of fixed shape (see pipeline).
    """

    prepared: sources.Prepared
    train_transform: TrainTransform
    eval_transform: EvalTransform
    workers: int
    prefetch: int

    @property
    def name(self) -> str:
        """The name, as in the config."""
        return self.prepared.name

    @property
    def version(self) -> str:
        """The version of the builder that prepares it."""
        return self.prepared.version

    @property
    def is_prepared(self) -> bool:
        """Whether its files are prepared."""
        return sources.is_prepared(self.prepared.builder)

    @property
    def counts(self) -> dict[str, int]:
        """Number of examples by split. Raises ValueError if the data set is not prepared."""
        return self.prepared.counts

    @property
    def fingerprint(self) -> str:
        """A hex digest of the content, see sources.Prepared. Raises ValueError if the data set is not prepared."""
        return self.prepared.fingerprint

    def prepare(self) -> DatasetInfo:
        """Prepares a `folder:` data set that is new or has changed, and checks that the data fit the config.

        Raises:
            ValueError: for any other data set that is not prepared, with the command that prepares it, and for damaged
                files.
        """
        prepare.ensure(self.prepared)
        self.check_content()
        return DatasetInfo(self.name, self.version, self.counts, self.fingerprint)

    def check_content(self) -> None:
        """Raises ValueError if the prepared data do not fit the config."""

    def record(self, folder: Path) -> None:
        """Writes the metadata that prediction needs into the run directory `folder`, see recorded.py."""
        recorded.write(folder, recorded.describe(self.prepared.builder))

    def source(self, split: str) -> Sequence[Any]:
        """The examples of a split in their stored order, as the transforms take them."""
        return self.prepared.source(split)

    def train_batches(
        self, seed: int, batch_size: int, start: int = 0, rows: slice | Sequence[int] | None = None
    ) -> Batches:
        """Yields rows `rows` (None: all) of batches `start`, `start + 1`, ... of the run with `seed`, infinitely."""
        source = self.source("train")
        transform = self.transform_over(source)
        return pipeline.train_batches(
            source, transform, seed, batch_size, start, rows, self.workers, self.prefetch, self.alternating
        )

    @property
    def alternating(self) -> bool:
        """Whether the training transform takes a `turn` that alternates between epochs, see pipeline.train_batches."""
        return False

    @property
    def mixes_examples(self) -> str:
        """A description of what makes a training example depend on others, and how to turn it off; "" for nothing."""
        return ""

    def sampling_rate(self, expected: int) -> float:
        """See spec.contracts.PoissonSampled."""
        examples = len(self.source("train"))
        if expected > examples:
            raise ValueError(f"config.train.batch_size={expected} must be at most {examples:,} (training examples)")
        return expected / examples

    def poisson_batches(
        self, seed: int, expected: int, most: int, size: int, start: int = 0, rows: slice | Sequence[int] | None = None
    ) -> Batches:
        """See spec.contracts.PoissonSampled."""
        source, rate = self.source("train"), self.sampling_rate(expected)
        transform = self.transform_over(source)
        return pipeline.poisson_batches(
            source, transform, seed, rate, most, size, start, rows, self.workers, self.prefetch
        )

    def transform_over(self, source: Sequence[Any]) -> TrainTransform:
        """The training transform; a subclass may give it access to the other examples of the split."""
        return self.train_transform

    def eval_batches(self, split: str, batch_size: int, rows: slice | Sequence[int] | None = None) -> Batches:
        """Yields rows `rows` (None: all) of the batches of a split in order; padding has weight 0 and index -1."""
        return pipeline.eval_batches(
            self.source(split), self.eval_transform, batch_size, rows, self.workers, self.prefetch
        )


@dataclasses.dataclass(frozen=True)
class ClassedDataset(PreparedDataset):
    """A data set of images with classes; the compiled step normalises images by `mean` and `std`."""

    class_names: tuple[str, ...]
    mean: tuple[float, ...]  # per channel, in units of 0..255
    std: tuple[float, ...]

    def prepare(self) -> DatasetInfo:
        """As in PreparedDataset."""
        return dataclasses.replace(super().prepare(), class_names=self.class_names)

    @cached_property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.class_names)


def per_channel(values: Sequence[float], channels: int, key: str) -> tuple[float, ...]:
    """The values of config.data.`key`, one per channel; a single value is repeated. Raises ValueError otherwise."""
    values = tuple(values)
    if len(values) not in (1, channels):
        raise ValueError(f"config.data.{key}={values} has {len(values)} values; the images have {channels} channels")
    return values * channels if len(values) == 1 else values
