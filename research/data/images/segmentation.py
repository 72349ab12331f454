"""`load(spec)`: images and their masks as batches that are a function of (seed, step)."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from research.data import dataset, recorded, sources
from research.data.images import files as image_files
from research.data.images import transforms, views
from research.data.images.spec import SIDE, MarkedImageSpec
from research.data.images.views import VOID
from research.spec import checks, field, invalid

if TYPE_CHECKING:
    from research.tasks.segmentation import MaskReference  # for type checkers only: reading data needs no JAX

CHANNELS = 3
_SIDES = checks.each(SIDE)


class SegmentationDataSpec(MarkedImageSpec, tag="masks"):
    """Images with masks; sizes are height and width in px; augmentation as in TrainMaskTransform."""

    image_size: tuple[int, int] = field(
        default=(0, 0), check=_SIDES, doc="training crop; (0, 0): the size of the largest image"
    )
    eval_size: tuple[int, int] = field(
        default=(0, 0), check=_SIDES,
        doc="canvas of evaluation, on which images are not resized; (0, 0): the size of the largest image",
    )  # fmt: skip

    def validate(self) -> None:
        """Raises FieldError also for a size with only one side given."""
        super().validate()
        for name in ("image_size", "eval_size"):
            if 0 in getattr(self, name) and any(getattr(self, name)):
                raise invalid(self, name, "must be a height and a width in px, or (0, 0)")


@dataclasses.dataclass(frozen=True)
class EvalMaskTransform:
    """The unscaled image in the upper left corner of a canvas of `size` (height, width in px); the padding is void.

    Class indices of a mask that are not below `classes` become void.
    """

    size: views.Size
    classes: int
    fill: tuple[int, ...]

    def __call__(self, example: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """`image` uint8 [height, width, 3] and `mask` uint8 [height, width]. Raises ValueError if it is too large."""
        image, mask = self._decode(example)
        size = views.size_of(image)
        if size[0] > self.size[0] or size[1] > self.size[1]:
            raise ValueError(
                f"{example['name'].decode()} is {size[0]} px high and {size[1]} px wide, "
                f"more than config.data.eval_size={self.size}; raise it"
            )
        return self._arrays(views.corner(size, self.size), image, mask)

    def _decode(self, example: Mapping[str, Any]) -> tuple[Image.Image, np.ndarray]:
        mask = image_files.decode_mask(example["mask"])
        return transforms.decode(example["image"], CHANNELS), np.where(mask < self.classes, mask, VOID).astype(np.uint8)

    def _arrays(self, view: views.View, image: Image.Image, mask: np.ndarray) -> dict[str, np.ndarray]:
        return {"image": np.asarray(view.image(image, self.fill)), "mask": view.mask(mask)}


@dataclasses.dataclass(frozen=True)
class TrainMaskTransform(EvalMaskTransform):
    """A random crop of the image; an image that is smaller is padded at random.

    Attributes:
        scale: The image is resized by a factor that is log-uniform in this range.
        flip: Horizontal flip with probability 1/2.
        color_jitter: Color jitter: brightness, contrast and saturation by factors uniform in 1 +-.
    """

    scale: tuple[float, float] = (1.0, 1.0)
    flip: bool = False
    color_jitter: float = 0.0

    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride]  training needs a generator too
        self, example: Mapping[str, Any], rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """As in evaluation, with the random choices drawn from `rng`."""
        image, mask = self._decode(example)
        view = views.drawn(views.size_of(image), self.size, self.scale, self.flip, rng)
        arrays = self._arrays(view, image, mask)
        if self.color_jitter:
            jittered = transforms.jitter_colours(Image.fromarray(arrays["image"]), self.color_jitter, rng)
            arrays["image"] = np.asarray(jittered)
        return arrays


@dataclasses.dataclass(frozen=True)
class SegmentationDataset(dataset.ClassedDataset):
    """Images with a class for every pixel. A batch holds, beside `index` and `weight`:

    image  uint8 [batch, height, width, 3]
    mask   uint8 [batch, height, width]: a class, or VOID
    """

    train_transform: TrainMaskTransform
    eval_transform: EvalMaskTransform
    colours: tuple[str, ...]  # "#rrggbb", or "" if the data set defines none

    def check_content(self) -> None:
        """Raises ValueError if the largest image, if known, does not fit the evaluation canvas."""
        canvas, largest = self.eval_transform.size, _largest(self.prepared.builder)
        if largest and any(side < most for side, most in zip(canvas, largest, strict=True)):
            raise ValueError(
                f"config.data.eval_size={canvas} is smaller than the largest image of {self.name!r}, "
                f"{largest[0]} px high and {largest[1]} px wide; raise it"
            )

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of training images."""
        return (*self.train_transform.size, CHANNELS)

    def reference(self, split: str, index: int) -> "MaskReference":
        """The ground truth of an example: its `mask`, and the `name` of the image in its archive or folder."""
        example = self.source(split)[index]
        return {"name": example["name"].decode(), "mask": image_files.decode_mask(example["mask"])}

    def view(self, image: Image.Image) -> views.View:
        """The view of any image on the evaluation canvas: unscaled, or downscaled to fit."""
        size, canvas = views.size_of(image), self.eval_transform.size
        fits = size[0] <= canvas[0] and size[1] <= canvas[1]
        return views.corner(size, canvas) if fits else views.fitted(size, canvas)

    def examples(self, images: Sequence[Image.Image]) -> dict[str, np.ndarray]:
        """A batch of unlabelled images, for prediction."""
        fill, count = self.eval_transform.fill, len(images)
        canvases = np.stack([np.asarray(self.view(image).image(image, fill)) for image in images])
        index, weight = np.full(count, -1, np.int32), np.zeros(count, np.float32)
        return {
            "image": canvases,
            "mask": np.full(canvases.shape[:3], VOID, np.uint8),
            "index": index,
            "weight": weight,
        }

    def in_image(self, mask: np.ndarray, image: Image.Image) -> np.ndarray:
        """A mask [height, width] predicted on the canvas, cropped and resized to the size of `image`."""
        height, width = self.view(image).resized
        shown = Image.fromarray(mask[:height, :width].astype(np.uint8))
        return np.asarray(shown.resize(image.size, Image.Resampling.NEAREST))


def load(spec: SegmentationDataSpec, known: recorded.Recorded | None = None) -> SegmentationDataset:
    """The data set that `spec` describes; nothing is prepared, and no example is read yet.

    If `spec` gives no sizes, those of a folder that is not prepared are read from the headers of its images.

    Args:
        spec: The config of the data.
        known: As in classification.load.

    Raises:
        ValueError: Unknown name or, if the image sizes are known, canvas sizes that do not fit them.
    """
    builder = known or sources.open_builder(spec.name, spec.dir)
    from research.data.images.builders import mask_folder, masks  # TFDS is slow to import

    if not known and not isinstance(builder, masks.MaskBuilder):
        raise ValueError(
            f"config.data.name={spec.name!r} has no masks; choose camvid, cityscapes_fine, coloured_shapes or "
            "folder:PATH with images and masks in PATH/train"
        )
    mean, std = (dataset.per_channel(getattr(spec, key), CHANNELS, key) for key in ("mean", "std"))
    largest = _largest(builder)
    if largest is None and isinstance(builder, mask_folder.MaskFolder) and (0, 0) in (spec.image_size, spec.eval_size):
        largest = builder.largest()
    shared = {"classes": len(builder.class_names), "fill": tuple(round(value) for value in mean)}
    augmentation = {"scale": spec.scale, "flip": spec.flip, "color_jitter": spec.color_jitter}
    data = SegmentationDataset(
        prepared=sources.Prepared(
            builder, spec.name, spec.validation_fraction, spec.fit_on, group=spec.group, half=spec.half
        ),
        train_transform=TrainMaskTransform(_size(spec, "image_size", largest), **shared, **augmentation),
        eval_transform=EvalMaskTransform(_size(spec, "eval_size", largest), **shared),
        workers=spec.workers,
        prefetch=spec.prefetch,
        class_names=tuple(builder.class_names),
        colours=tuple(builder.colours) or ("",) * len(builder.class_names),
        mean=mean,
        std=std,
    )
    data.check_content()
    return data


def _largest(builder) -> views.Size | None:
    """The largest height and width of the images; None if unknown before they are prepared."""
    if sources.is_prepared(builder):
        return tuple(builder.info.metadata["largest"])
    return builder.shape[:2] if None not in builder.shape else None


def _size(spec: SegmentationDataSpec, key: str, largest: views.Size | None) -> views.Size:
    size = getattr(spec, key)
    if not any(size) and largest is None:
        raise ValueError(
            f"config.data.{key} must be set: {spec.name!r} is not prepared, so its image sizes are unknown"
        )
    return size if any(size) or largest is None else largest
