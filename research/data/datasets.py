"""`load(spec)`: labelled images as batches that are a function of (seed, step)."""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from research.data import pipeline, prepare, recorded, sources
from research.data.spec import AugmentedImageSpec, ImageSpec, StillImageSpec
from research.spec.contracts import Batches, DatasetInfo
from research.spec.fields import infos

if TYPE_CHECKING:
    from research.data import images


class TrainTransform(Protocol):
    """What training does to an example, at random."""

    def __call__(self, example: Any, rng: np.random.Generator, /) -> pipeline.Batch:
        """The arrays of one example, of fixed shape."""
        ...


class EvalTransform(Protocol):
    """What evaluation does to an example."""

    def __call__(self, example: Any, /) -> pipeline.Batch:
        """The arrays of one example, of fixed shape."""
        ...


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Splits, which `prepare` makes, and what is done to their examples; for any kind of data. See spec.contracts.

    `train_transform(example, rng)` and `eval_transform(example)` return dicts of arrays of fixed shape (see pipeline).
    """

    prepared: sources.Prepared
    train_transform: TrainTransform
    eval_transform: EvalTransform
    workers: int
    prefetch: int

    @property
    def name(self) -> str:
        """As in the config."""
        return self.prepared.name

    @property
    def version(self) -> str:
        """The version of the builder that prepares it."""
        return self.prepared.version

    @property
    def is_prepared(self) -> bool:
        """Whether its examples are there to be read."""
        return sources.is_prepared(self.prepared.builder)

    @property
    def counts(self) -> dict[str, int]:
        """Examples in train, validation and test. Raises ValueError where the data set is not prepared."""
        return self.prepared.counts

    @property
    def fingerprint(self) -> str:
        """A hex digest of the content, see sources.Prepared. Raises ValueError where the data set is not prepared."""
        return self.prepared.fingerprint

    def prepare(self) -> DatasetInfo:
        """Stores what is not stored yet, checks that it fits the config, and says what there is.

        A folder that has not been prepared, or that changed since, is prepared. Raises ValueError, with the command
        that prepares it, for any other data set that is not, and for files that are damaged.
        """
        prepare.ensure(self.prepared)
        self.check_content()
        return DatasetInfo(self.name, self.version, self.counts, self.fingerprint)

    def check_content(self) -> None:
        """Raises ValueError where what is stored does not fit the config."""

    def record(self, folder: Path) -> None:
        """Writes what prediction needs of this data set into the run directory `folder`, see recorded.py."""
        recorded.write(folder, recorded.describe(self.prepared.builder))

    def source(self, split: str) -> Sequence[Any]:
        """The examples of a split in their stored order, as the transforms want them."""
        return self.prepared.source(split)

    def train_batches(
        self, seed: int, batch_size: int, start: int = 0, rows: slice | Sequence[int] | None = None
    ) -> Batches:
        """Rows `rows` (None: all) of the batches `start`, `start + 1`, ... of the run `seed`, without end."""
        return pipeline.train_batches(
            self.source("train"), self.train_transform, seed, batch_size, start, rows, self.workers, self.prefetch
        )

    def eval_batches(self, split: str, batch_size: int, rows: slice | Sequence[int] | None = None) -> Batches:
        """Rows `rows` (None: all) of the batches of a whole split in order; padding has weight 0 and index -1."""
        return pipeline.eval_batches(
            self.source(split), self.eval_transform, batch_size, rows, self.workers, self.prefetch
        )


@dataclasses.dataclass(frozen=True)
class Classed(Dataset):
    """Pictures in which something has a class, and what normalises them in the compiled step."""

    class_names: tuple[str, ...]
    mean: tuple[float, ...]  # per channel, in units of 0..255
    std: tuple[float, ...]

    def prepare(self) -> DatasetInfo:
        """As in Dataset."""
        return dataclasses.replace(super().prepare(), class_names=self.class_names)

    @cached_property
    def num_classes(self) -> int:
        """How many classes the labels tell apart."""
        return len(self.class_names)


@dataclasses.dataclass(frozen=True)
class Labelled(Classed):
    """Labelled images or clips, which may stay in memory."""

    image_shape: tuple[int, ...]  # height, width, channels; of clips frames first
    cache: bool

    @property
    def encoded_key(self) -> str:
        """The field of an example that holds what is decoded."""
        raise NotImplementedError

    def source(self, split: str) -> Sequence[Mapping[str, Any]]:
        """As in Dataset; with `cache`, decoded pictures stay in memory as long as this data set."""
        return self._decoded[split] if self.cache else super().source(split)

    @cached_property
    def _decoded(self) -> dict[str, Sequence[Mapping[str, Any]]]:
        from research.data import images

        key, channels = self.encoded_key, self.image_shape[-1]
        return {split: images.Decoded(super(Labelled, self).source(split), key, channels) for split in sources.SPLITS}


@dataclasses.dataclass(frozen=True)
class Pictures(Labelled):
    """Labelled pictures. A batch holds, beside `index` and `weight`:

    image  uint8 [batch, height, width, channels]
    label  int32 [batch]
    """

    train_transform: "images.Train"
    eval_transform: "images.Evaluate"

    @property
    def encoded_key(self) -> str:
        """See Labelled."""
        return self.eval_transform.image_key

    def reference(self, split: str, index: int) -> dict[str, Any]:
        """What names the example `index` of a split, its `path` where that is stored, and its `class`."""
        example = self.prepared.source(split)[index]
        path = {"path": example["path"].decode()} if isinstance(example.get("path"), bytes) else {}
        return {"index": index, **path, "class": self.class_names[int(example[self.eval_transform.label_key])]}

    def read(self, path: str) -> Any:
        """The picture file at `path` as evaluation sees it: uint8 [height, width, channels]. Raises ValueError."""
        from research.data import image_files, images

        picture = image_files.read(path, self.image_shape[-1])
        return images.to_array(self.eval_transform.picture(picture))


def load(spec: StillImageSpec, known: recorded.Recorded | None = None) -> Pictures:
    """The labelled images that `spec` describes; nothing is prepared, and no example is read yet.

    What a run has recorded may be given as `known`: then the data set itself is not looked for, and there are no
    examples.

    Raises ValueError for an unknown name or a bad setting.
    """
    if spec.image_size:  # else it is known when the data set is
        _check(spec, spec.image_size)
    builder = known or sources.open_builder(spec.name, spec.dir)
    image_key, label_key = _labelled_picture(builder, spec.name)
    shape, names = builder.info.features[image_key].shape, builder.info.features[label_key].names
    train, evaluate = transforms(spec, shape, image_key, label_key)
    return Pictures(
        prepared=sources.Prepared(builder, spec.name, spec.validation_fraction),
        train_transform=train,
        eval_transform=evaluate,
        workers=spec.workers,
        prefetch=spec.prefetch,
        class_names=tuple(names),
        image_shape=(train.size, train.size, train.channels),
        mean=per_channel(spec.mean, train.channels, "mean"),
        std=per_channel(spec.std, train.channels, "std"),
        cache=spec.cache,
    )


def transforms(spec: AugmentedImageSpec, shape: Sequence[int | None], image_key: str, label_key: str) -> tuple:
    """What training and what evaluation do to images of `shape`: images.Train and images.Evaluate.

    Raises ValueError for a bad setting.
    """
    from research.data import images  # Pillow only where images are used

    size = _size(spec, shape)
    _check(spec, size)
    known = {each.name for each in infos(type(spec))}
    given = lambda cls: {each.name: getattr(spec, each.name) for each in dataclasses.fields(cls) if each.name in known}
    own = {
        "resize": spec.resize or size, "channels": 1 if shape[-1] == 1 else 3, "image_key": image_key,
        "label_key": label_key,
    }  # fmt: skip
    return (
        images.Train(**(given(images.Train) | own), size=size),
        images.Evaluate(**(given(images.Evaluate) | own), size=_eval_size(spec) or size),
    )


def _labelled_picture(builder, name):
    """The keys of the one picture and the one class label in an example."""
    import tensorflow_datasets as tfds

    features = builder.info.features
    of_type = lambda kind: [key for key, feature in features.items() if isinstance(feature, kind)]
    pictures, labels = of_type(tfds.features.Image), of_type(tfds.features.ClassLabel)
    if len(pictures) != 1 or len(labels) != 1:
        raise ValueError(
            f"config.data.name={name!r} has the features {', '.join(features)}; one picture and one class are needed"
        )
    return pictures[0], labels[0]


def _size(spec: AugmentedImageSpec, shape: Sequence[int | None]) -> int:
    if spec.image_size:
        return spec.image_size
    height, width = shape[:2]
    if height is None or height != width:
        raise ValueError(f"config.data.image_size is needed: the images of {spec.name!r} are not squares of one size")
    return height


def _eval_size(spec: AugmentedImageSpec) -> int:
    """0 where evaluation sees the size of training."""
    return spec.eval_size if isinstance(spec, ImageSpec) else 0


def _check(spec: AugmentedImageSpec, size: int) -> None:
    """Raises ValueError for sizes that contradict one another, where training sees images in `size`."""
    resize, eval_size = spec.resize or size, _eval_size(spec) or size
    if not 1 <= size <= resize:
        raise ValueError(f"config.data.resize={resize} px must be at least image_size={size}, which is at least 1")
    if eval_size > resize:
        raise ValueError(f"config.data.resize={resize} px must be at least eval_size={eval_size}")
    if eval_size < size:
        raise ValueError(
            f"config.data.eval_size={eval_size} px would show evaluation less than training sees, image_size={size}; "
            "0 makes it image_size"
        )


def per_channel(values: Sequence[float], channels: int, key: str) -> tuple[float, ...]:
    """`values` of config.data.`key`, one for each channel; one for all may be given. Raises ValueError for others."""
    values = tuple(values)
    if len(values) not in (1, channels):
        raise ValueError(f"config.data.{key}={values} has {len(values)} values; the images have {channels} channels")
    return values * channels if len(values) == 1 else values
