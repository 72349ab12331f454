"""`load(spec)`: labelled images as batches that are a function of (seed, step)."""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from research.data import recorded, sources
from research.data.dataset import ClassedDataset, per_channel
from research.data.images.spec import AugmentedImageSpec, ImageSpec, StillImageSpec
from research.spec.fields import infos

if TYPE_CHECKING:
    from research.data.images import transforms


@dataclasses.dataclass(frozen=True)
class LabelledDataset(ClassedDataset):
    """Labelled images or clips, which may be cached in memory."""

    image_shape: tuple[int, ...]  # height, width, channels; of clips frames first
    cache: bool

    @property
    def encoded_key(self) -> str:
        """The field of an example that holds the encoded image or images."""
        raise NotImplementedError

    def source(self, split: str) -> Sequence[Mapping[str, Any]]:
        """As in PreparedDataset; with `cache`, decoded images are kept in memory."""
        return self._decoded[split] if self.cache else super().source(split)

    @cached_property
    def _decoded(self) -> dict[str, Sequence[Mapping[str, Any]]]:
        from research.data.images import transforms

        key, channels = self.encoded_key, self.image_shape[-1]
        return {
            split: transforms.Decoded(super(LabelledDataset, self).source(split), key, channels)
            for split in sources.SPLITS
        }


@dataclasses.dataclass(frozen=True)
class ImageDataset(LabelledDataset):
    """Labelled images. A batch holds, beside `index` and `weight`:

    image  uint8 [batch, height, width, channels]
    label  int32 [batch]
    """

    train_transform: "transforms.TrainImageTransform"
    eval_transform: "transforms.EvalImageTransform"

    @property
    def encoded_key(self) -> str:
        """See LabelledDataset."""
        return self.eval_transform.image_key

    @property
    def alternating(self) -> bool:
        """See PreparedDataset; of horizontal flips."""
        return self.train_transform.alternating_flip

    def reference(self, split: str, index: int) -> dict[str, Any]:
        """The `index`, the `path` if it is stored, and the `class` of an example, for predictions files."""
        example = self.prepared.source(split)[index]
        path = {"path": example["path"].decode()} if isinstance(example.get("path"), bytes) else {}
        return {"index": index, **path, "class": self.class_names[int(example[self.eval_transform.label_key])]}

    def read(self, path: str) -> Any:
        """The image file at `path`, transformed as for evaluation: uint8 [height, width, channels].

        Raises ValueError if it cannot be read.
        """
        from research.data.images import files as image_files
        from research.data.images import transforms

        image = image_files.read(path, self.image_shape[-1])
        return transforms.to_array(self.eval_transform.frame(image))


def load(spec: StillImageSpec, known: recorded.Recorded | None = None) -> ImageDataset:
    """The data set that `spec` describes; nothing is prepared, and no example is read yet.

    Args:
        spec: The config of the data.
        known: The metadata that a run has recorded; the data set itself is then not opened and has no examples.

    Raises:
        ValueError: An unknown name or a bad setting.
    """
    if spec.image_size:  # else it comes from the data set
        _check(spec, spec.image_size)
    builder = known or sources.open_builder(spec.name, spec.dir)
    image_key, label_key = _labelled_image(builder, spec.name)
    shape, names = builder.info.features[image_key].shape, builder.info.features[label_key].names
    train, evaluate = make_transforms(spec, shape, image_key, label_key)
    return ImageDataset(
        prepared=sources.Prepared(
            builder, spec.name, spec.validation_fraction, spec.fit_on, group=spec.group, half=spec.half
        ),
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


def make_transforms(spec: AugmentedImageSpec, shape: Sequence[int | None], image_key: str, label_key: str) -> tuple:
    """The TrainImageTransform and the EvalImageTransform of images of `shape`.

    Raises ValueError for a bad setting.
    """
    from research.data.images import transforms  # Pillow is imported only when images are used

    size = _size(spec, shape)
    _check(spec, size)
    known = {each.name for each in infos(type(spec))}
    given = lambda cls: {each.name: getattr(spec, each.name) for each in dataclasses.fields(cls) if each.name in known}
    own = {
        "resize": spec.resize or size, "channels": 1 if shape[-1] == 1 else 3, "image_key": image_key,
        "label_key": label_key,
    }  # fmt: skip
    return (
        transforms.TrainImageTransform(**(given(transforms.TrainImageTransform) | own), size=size),
        transforms.EvalImageTransform(**(given(transforms.EvalImageTransform) | own), size=_eval_size(spec) or size),
    )


def _labelled_image(builder, name):
    """The feature names of the image and of the class label of an example, one each."""
    import tensorflow_datasets as tfds

    features = builder.info.features
    of_type = lambda kind: [key for key, feature in features.items() if isinstance(feature, kind)]
    images, labels = of_type(tfds.features.Image), of_type(tfds.features.ClassLabel)
    if len(images) != 1 or len(labels) != 1:
        raise ValueError(
            f"config.data.name={name!r} has the features {', '.join(features)}; one image and one class label are "
            "needed"
        )
    return images[0], labels[0]


def _size(spec: AugmentedImageSpec, shape: Sequence[int | None]) -> int:
    if spec.image_size:
        return spec.image_size
    height, width = shape[:2]
    if height is None or height != width:
        raise ValueError(f"config.data.image_size must be set: the images of {spec.name!r} are not squares of one size")
    return height


def _eval_size(spec: AugmentedImageSpec) -> int:
    """0 if evaluation uses the image size of training."""
    return spec.eval_size if isinstance(spec, ImageSpec) else 0


def _check(spec: AugmentedImageSpec, size: int) -> None:
    """Raises ValueError for sizes that contradict one another; `size` is the image size of training."""
    resize, eval_size = spec.resize or size, _eval_size(spec) or size
    if not 1 <= size <= resize:
        raise ValueError(f"config.data.resize={resize} px must be at least image_size={size}, which is at least 1")
    if eval_size > resize:
        raise ValueError(f"config.data.resize={resize} px must be at least eval_size={eval_size}")
    if eval_size < size:
        raise ValueError(
            f"config.data.eval_size={eval_size} px must be at least image_size={size}, the size for training; 0 makes "
            "them equal"
        )
