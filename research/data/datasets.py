"""`load(config.data)`: labelled pictures as batches that are a function of (seed, step)."""

import dataclasses
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from research.data import pipeline, recorded, sources

CROPS = ("none", "pad", "random", "inception")  # images.Train says what they do
AUGMENTATION = (
    "crop", "pad", "flip", "rotate", "shift", "scale", "randaugment_layers", "randaugment_magnitude", "brightness",
    "contrast", "erase",
)  # fmt: skip

DEFAULTS: dict[str, Any] = {
    "name": "",  # see sources.py
    "dir": "",  # where prepared data lie; "" is $TFDS_DATA_DIR or ~/tensorflow_datasets
    "validation_fraction": 0.1,  # of train, held out where the data set has no validation split
    # Geometry, in px. 0: image_size is that of the data set, if all its pictures share one; resize is image_size. An
    # override of image_size alone is enough: what the config file gives for the others keeps its ratio (config.py).
    "image_size": 0,
    "resize": 0,
    "eval_size": 0,  # where evaluation sees a larger size than training; 0 is image_size
    # What evaluation sees too, see images.Evaluate.
    "squeeze": False,
    "interpolation": "bilinear",
    "long_side": "round",
    "lighting": "as it is",
    # Augmentation while training, see images.Train.
    "crop": "none",
    "pad": 4,
    "flip": False,
    "rotate": 0.0,
    "shift": 0.0,
    "scale": 0.0,
    "randaugment_layers": 0,
    "randaugment_magnitude": 10.0,
    "brightness": 0.0,
    "contrast": 0.0,
    "erase": 0.0,
    # For the normalisation in the compiled step: per channel (or one for all), in units of 0..255.
    "mean": (127.5,),
    "std": (127.5,),
    # Speed, never content. `cache` keeps every picture decoded in memory, a copy in each worker.
    "cache": False,
    "workers": 0,
    "prefetch": 2,
}


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Prepared splits and what is done to their examples; for any kind of data.

    `train_transform(example, rng)` and `eval_transform(example)` return dicts of arrays of fixed shape (see pipeline).
    """

    prepared: sources.Prepared
    train_transform: Callable[..., pipeline.Batch]
    eval_transform: Callable[..., pipeline.Batch]
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

    def record(self, folder: Path) -> None:
        """Writes what prediction needs of this data set into the run directory `folder`, see recorded.py."""
        recorded.write(folder, recorded.describe(self.prepared.builder))

    def source(self, split: str) -> Sequence[Mapping[str, Any]]:
        """The examples of a split in their stored order, as the transforms want them."""
        return self.prepared.source(split)

    def train_batches(
        self, seed: int, batch_size: int, start: int = 0, rows: slice | Sequence[int] | None = None
    ) -> Iterator[pipeline.Batch]:
        """Rows `rows` (None: all) of the batches `start`, `start + 1`, ... of the run `seed`, without end."""
        return pipeline.train_batches(
            self.source("train"), self.train_transform, seed, batch_size, start, rows, self.workers, self.prefetch
        )

    def eval_batches(
        self, split: str, batch_size: int, rows: slice | Sequence[int] | None = None
    ) -> Iterator[pipeline.Batch]:
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

    @cached_property
    def num_classes(self) -> int:
        """How many classes the labels tell apart."""
        return len(self.class_names)


@dataclasses.dataclass(frozen=True)
class Pictures(Classed):
    """Labelled pictures. A batch holds, beside `index` and `weight`:

    image  uint8 [batch, height, width, channels]
    label  int32 [batch]
    """

    image_shape: tuple[int, ...]  # height, width, channels
    cache: bool

    def source(self, split: str) -> Sequence[Mapping[str, Any]]:
        """As in Dataset; with `cache`, decoded pictures stay in memory as long as this data set."""
        return self._decoded[split] if self.cache else super().source(split)

    @cached_property
    def _decoded(self) -> dict[str, Sequence[Mapping[str, Any]]]:
        from research.data import images

        key, channels = self.encoded_key, self.image_shape[-1]
        return {split: images.Decoded(super(Pictures, self).source(split), key, channels) for split in sources.SPLITS}

    @property
    def encoded_key(self) -> str:
        """The field of an example that holds what is decoded."""
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


def load(config: Mapping[str, Any], known: recorded.Recorded | None = None) -> Pictures:
    """The labelled pictures that `config` (see DEFAULTS) describes; no example is read yet.

    A folder that has not been prepared, or that changed since, is prepared here; any other data set says how to
    prepare it when its counts or its examples are asked for. What a run has recorded may be given as `known`: then the
    data set itself is not looked for, and there are no examples.

    Raises ValueError for an unknown name or a bad setting.
    """
    config = {**DEFAULTS, **config}
    if config["image_size"]:  # else it is known when the data set is
        _check(config, config["image_size"])
    builder = known or sources.open_builder(config["name"], config["dir"])
    image_key, label_key = _labelled_picture(builder, config["name"])
    shape, names = builder.info.features[image_key].shape, builder.info.features[label_key].names
    train, evaluate = transforms(config, shape, image_key, label_key)
    builder = prepared(builder, config)
    return Pictures(
        prepared=sources.Prepared(builder, config["name"], config["validation_fraction"]),
        train_transform=train,
        eval_transform=evaluate,
        workers=config["workers"],
        prefetch=config["prefetch"],
        class_names=tuple(names),
        image_shape=(train.size, train.size, train.channels),
        mean=per_channel(config["mean"], train.channels, "mean"),
        std=per_channel(config["std"], train.channels, "std"),
        cache=config["cache"],
    )


def prepared(builder: Any, config: Mapping[str, Any]) -> Any:
    """`builder`, that of `config`'s `name` and `dir`; a folder that is not prepared, or changed since, is prepared.

    Preparing may take long: what else is wrong with a config is found before. What a run has recorded stays as it is.
    """
    if isinstance(builder, recorded.Recorded):
        return builder
    if config["name"].startswith(sources.FOLDER) and not sources.is_prepared(builder):
        from research.data import prepare

        # It counts and names what is wrong with the user's files.
        print(prepare.prepare(config["name"], data_dir=config["dir"]), file=sys.stderr)
        builder = sources.open_builder(config["name"], config["dir"])
    return builder


def transforms(config: Mapping[str, Any], shape: Sequence[int | None], image_key: str, label_key: str) -> tuple:
    """What training and what evaluation do to pictures of `shape`: images.Train and images.Evaluate.

    Raises ValueError for a bad setting.
    """
    from research.data import images  # Pillow only where pictures are used

    size = _size(config, shape)
    _check(config, size)
    choices = {
        "lighting": images.LIGHTINGS, "interpolation": images.INTERPOLATIONS, "long_side": images.LONG_SIDES,
    }  # fmt: skip
    for key, known in choices.items():
        if config[key] not in known:
            raise ValueError(f"config.data.{key}={config[key]!r} is unknown; choose from {', '.join(known)}")
    geometry = {
        "resize": config["resize"] or size,
        "channels": 1 if shape[-1] == 1 else 3,
        "image_key": image_key,
        "label_key": label_key,
        "squeeze": config["squeeze"],
        "interpolation": config["interpolation"],
        "long_side": config["long_side"],
        "lighting": config["lighting"],
    }
    augmentation = {key: config[key] for key in AUGMENTATION if key in config}
    return images.Train(size=size, **geometry, **augmentation), images.Evaluate(
        size=config["eval_size"] or size, **geometry
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


def _size(config, shape):
    if config["image_size"]:
        return config["image_size"]
    height, width = shape[:2]
    if height is None or height != width:
        raise ValueError(
            f"config.data.image_size is needed: the pictures of {config['name']!r} are not squares of one size"
        )
    return height


def _check(config, size):
    """Raises ValueError for a bad setting of images that training sees in `size`."""

    resize, eval_size = config["resize"] or size, config["eval_size"] or size
    for key, value in config.items():
        if isinstance(value, int | float) and value < 0:
            raise ValueError(f"config.data.{key}={value} must not be negative")
    if config["crop"] not in CROPS:
        raise ValueError(f"config.data.crop={config['crop']!r} is unknown; choose from {', '.join(CROPS)}")
    if not 1 <= size <= resize:
        raise ValueError(f"config.data.resize={resize} px must be at least image_size={size}, which is at least 1")
    if eval_size > resize:
        raise ValueError(f"config.data.resize={resize} px must be at least eval_size={eval_size}")
    if eval_size < size:
        raise ValueError(
            f"config.data.eval_size={eval_size} px would show evaluation less than training sees, image_size={size}; "
            "0 makes it image_size"
        )
    for key in ("brightness", "contrast", "erase"):
        if config[key] > 1:
            raise ValueError(f"config.data.{key}={config[key]} must be at most 1")
    check_fraction(config)


def check_fraction(config: Mapping[str, Any]) -> None:
    """Raises ValueError for a `validation_fraction` that leaves too little, or nothing, of train or validation."""
    if not 0 < config["validation_fraction"] < 0.5:
        raise ValueError(f"config.data.validation_fraction={config['validation_fraction']} must lie between 0 and 0.5")


def per_channel(values: Sequence[float], channels: int, key: str) -> tuple[float, ...]:
    """`values` of config.data.`key`, one for each channel; one for all may be given. Raises ValueError for others."""
    values = tuple(float(value) for value in values)
    if len(values) not in (1, channels):
        raise ValueError(f"config.data.{key}={values} has {len(values)} values; the pictures have {channels} channels")
    return values * channels if len(values) == 1 else values
