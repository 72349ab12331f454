"""`load(spec)`: images and their boxes as batches that are a function of (seed, step)."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from research.data import dataset, recorded, sources
from research.data.images import transforms, views
from research.data.images.spec import SHARE, SIDE, MarkedImageSpec
from research.spec import checks, field, invalid

CHANNELS = 3
if TYPE_CHECKING:
    from research.metrics.box_scores import BoxReference  # for type checkers only: reading data needs no JAX

MOSAIC_CENTRE = (0.3, 0.7)  # of the canvas
_AUGMENTATION = ("scale", "flip", "vertical_flip", "color_jitter", "mosaic", "min_visible")


class DetectionDataSpec(MarkedImageSpec, tag="boxes"):
    """Images with boxes, resized to fit a canvas; augmentation as in TrainBoxTransform."""

    image_size: tuple[int, int] = field(
        default=(0, 0), check=checks.each(SIDE), doc="height and width of the canvas in px; must be given"
    )
    max_boxes: int = field(
        default=100, check=checks.between(1, 100_000),
        doc="boxes per image; if there are more, as in a mosaic, the largest are kept",
    )  # fmt: skip
    bad_boxes: str = field(
        default="clip", check=checks.one_of("clip", "drop", "refuse"),
        doc="boxes that extend outside their image are clipped (clip) or removed (drop); empty and inverted ones are "
        "always removed; with refuse, any of them is an error",
    )  # fmt: skip
    vertical_flip: bool = field(default=False, renamed="upside_down", doc="random vertical flip while training")
    mosaic: float = field(default=0.0, check=SHARE, doc="probability of a mosaic of four images while training")
    min_visible: float = field(default=0.3, check=SHARE, doc="smallest visible share of a box kept while training")

    def validate(self) -> None:
        """Raises FieldError for an invalid canvas size, among others."""
        super().validate()
        if min(self.image_size) < 1:
            raise invalid(self, "image_size", "must be a height and a width in px")


@dataclasses.dataclass(frozen=True)
class EvalBoxTransform:
    """The image resized to fit a canvas of `size` (height, width in px), in its upper left corner."""

    size: views.Size
    max_boxes: int
    fill: tuple[int, ...]
    clip: bool  # whether boxes that extend outside are clipped; else they are removed

    def __call__(self, example: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """`image` uint8 [height, width, 3], `boxes` [max_boxes, 4], `labels` and `box_weight` [max_boxes].

        Crowds are left out.
        """
        image = transforms.decode(example["image"], CHANNELS)
        view = views.fitted(views.size_of(image), self.size)
        return self._arrays(view.image(image, self.fill), *self._boxes_on_canvas(view, image, example))

    def _boxes_on_canvas(self, view: views.View, image: Image.Image, example) -> tuple[np.ndarray, np.ndarray]:
        """The valid boxes of an example, in canvas coordinates, and their labels."""
        size = views.size_of(image)
        boxes, kept = clean(example["boxes"], size, self.clip)
        kept &= np.asarray(example["crowd"]) == 0
        return view.boxes(boxes[kept].astype(np.float64), size), np.asarray(example["labels"])[kept]

    def _arrays(self, image: Image.Image, boxes: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
        order = np.argsort(-_areas(boxes), kind="stable")[: self.max_boxes]
        padded = np.zeros((self.max_boxes, 4), np.float32)
        numbers, weight = np.zeros(self.max_boxes, np.int32), np.zeros(self.max_boxes, np.float32)
        count = len(order)
        padded[:count], numbers[:count], weight[:count] = boxes[order], labels[order], 1
        return {"image": np.asarray(image), "boxes": padded, "labels": numbers, "box_weight": weight}


@dataclasses.dataclass(frozen=True)
class TrainBoxTransform(EvalBoxTransform):
    """A random view of the image, or a mosaic of four.

    Attributes:
        scale: The range of the scale relative to the image that fits the canvas, log-uniform; its offset is random.
        flip: Horizontal flip with probability 1/2.
        vertical_flip: Vertical flip with probability 1/2.
        color_jitter: Color jitter: brightness, contrast and saturation by factors uniform in 1 +-.
        mosaic: The probability of a mosaic with three other examples (Bochkovskiy et al., 2020).
        min_visible: Boxes with a smaller share on the canvas are removed; others are clipped.
        others: The examples from which the other images of mosaics are drawn.
    """

    scale: tuple[float, float] = (1.0, 1.0)
    flip: bool = False
    vertical_flip: bool = False
    color_jitter: float = 0.0
    mosaic: float = 0.0
    min_visible: float = 0.3
    others: Sequence[Mapping[str, Any]] | None = None

    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride]  training needs a generator too
        self, example: Mapping[str, Any], rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """As in evaluation, with the random choices drawn from `rng`."""
        if self.mosaic and self.others is not None and rng.random() < self.mosaic:
            image, boxes, labels = self._mosaic(example, rng)
        else:
            image, boxes, labels = self._drawn(example, self.size, rng)
        if self.color_jitter:
            image = transforms.jitter_colours(image, self.color_jitter, rng)
        return self._arrays(image, boxes, labels)

    def _drawn(self, example, canvas: views.Size, rng) -> tuple[Image.Image, np.ndarray, np.ndarray]:
        """A randomly scaled, cropped and flipped image on a canvas, with its visible boxes and their labels."""
        image = transforms.decode(example["image"], CHANNELS)
        size = views.size_of(image)
        base = min(self.size[0] / size[0], self.size[1] / size[1])
        view = views.drawn(size, canvas, self.scale, self.flip, rng, self.vertical_flip, base)
        boxes, labels = self._boxes_on_canvas(view, image, example)
        visible = boxes.clip(0, [canvas[1], canvas[0]] * 2)
        kept = (_areas(visible) >= self.min_visible * _areas(boxes)) & (_areas(visible) > 0)
        return view.image(image, self.fill), visible[kept], labels[kept]

    def _mosaic(self, example, rng) -> tuple[Image.Image, np.ndarray, np.ndarray]:
        """A mosaic: four images that meet at a random point."""
        height, width = self.size
        middle = [round(side * rng.uniform(*MOSAIC_CENTRE)) for side in self.size]
        others = self.others or ()
        examples = [example, *(others[int(index)] for index in rng.integers(len(others), size=3))]
        whole, boxes, labels = Image.new("RGB", (width, height), self.fill), [], []
        for number, part in enumerate(examples):
            top, bottom = ((0, middle[0]), (middle[0], height))[number // 2]
            left, right = ((0, middle[1]), (middle[1], width))[number % 2]
            image, visible, classes = self._drawn(part, (bottom - top, right - left), rng)
            whole.paste(image, (left, top))
            boxes.append(visible + np.array([left, top] * 2))
            labels.append(classes)
        return whole, np.concatenate(boxes), np.concatenate(labels)


@dataclasses.dataclass(frozen=True)
class DetectionDataset(dataset.ClassedDataset):
    """Images with boxes. A batch holds, beside `index` and `weight`:

    image       uint8 [batch, height, width, 3]
    boxes       float32 [batch, max_boxes, 4]: left, top, right and bottom in px of the canvas
    labels      int32 [batch, max_boxes]
    box_weight  float32 [batch, max_boxes]: 1, or 0 for padding

    With `refuse`, bad boxes (empty, inverted or partly outside the image) are an error.
    """

    train_transform: TrainBoxTransform
    eval_transform: EvalBoxTransform
    refuse: bool

    def check_content(self) -> None:
        """Raises ValueError for an image with more boxes than `max_boxes` and, with `refuse`, for bad boxes."""
        metadata, most = self.prepared.builder.info.metadata, self.eval_transform.max_boxes
        if metadata["most"] > most:
            raise ValueError(
                f"config.data.max_boxes={most} is less than the {metadata['most']} boxes of an image of {self.name!r}; "
                f"set it to {metadata['most']} or more"
            )
        entries = [entry for kind in metadata["bad"].values() for entry in kind]
        if entries and self.refuse:
            raise ValueError(
                f"{self.name!r} has {len(entries)} bad boxes, the first in {min(entries)}; fix them, or set "
                "config.data.bad_boxes to clip or drop"
            )

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of the canvas."""
        return (*self.train_transform.size, CHANNELS)

    @property
    def mixes_examples(self) -> str:
        """See PreparedDataset."""
        return f"config.data.mosaic={self.train_transform.mosaic}" if self.train_transform.mosaic else ""

    def transform_over(self, source: Sequence[Any]) -> TrainBoxTransform:
        """The training transform with the examples for mosaics, which are a function of (seed, example, epoch), too."""
        return dataclasses.replace(self.train_transform, others=source if self.train_transform.mosaic else None)

    def reference(self, split: str, index: int) -> "BoxReference":
        """The ground truth of an example: `name`, `size`; and `boxes`, `labels`, `crowd`, `areas` of valid boxes."""
        example = self.source(split)[index]
        size = views.size_of(transforms.decode(example["image"], CHANNELS))
        boxes, kept = clean(example["boxes"], size, self.eval_transform.clip)
        changed = (boxes != example["boxes"]).any(1)
        areas = np.where(changed, _areas(boxes), example["areas"])
        given = boxes, example["labels"], example["crowd"], areas
        boxes, labels, crowd, areas = (np.asarray(values)[kept] for values in given)
        name = example["name"].decode()
        return {"name": name, "size": size, "boxes": boxes, "labels": labels, "crowd": crowd, "areas": areas}

    def examples(self, images: Sequence[Image.Image]) -> dict[str, np.ndarray]:
        """A batch of unlabelled images, for prediction."""
        no_boxes = {"boxes": np.zeros((0, 4), np.float32), "labels": [], "crowd": []}
        arrays = [self.eval_transform({"image": np.asarray(image), **no_boxes}) for image in images]
        batch = {name: np.stack([each[name] for each in arrays]) for name in arrays[0]}
        count = len(images)
        return {**batch, "index": np.full(count, -1, np.int32), "weight": np.zeros(count, np.float32)}

    def in_image(self, boxes: np.ndarray, size: views.Size) -> np.ndarray:
        """Maps boxes [count, 4] from the evaluation canvas to px of an image of `size`, clipped to it."""
        view = views.fitted(size, self.eval_transform.size)
        return view.back(boxes, size).clip(0, [size[1], size[0]] * 2)


def clean(boxes: np.ndarray, size: views.Size, clip: bool) -> tuple[np.ndarray, np.ndarray]:
    """The boxes [count, 4] of an image of `size`, clipped to it, and which of them [count] are valid."""
    from research.data.images.builders.boxes import bad

    empty, outside = bad(boxes, size)
    return boxes.clip(0, [size[1], size[0]] * 2).astype(np.float32), ~empty & (clip | ~outside)


def load(spec: DetectionDataSpec, known: recorded.Recorded | None = None) -> DetectionDataset:
    """The data set that `spec` describes; nothing is prepared, and no example is read yet.

    Args:
        spec: The config of the data.
        known: As in classification.load.

    Raises:
        ValueError: Unknown name, or data that `check_content` rejects if they are prepared.
    """
    builder = known or sources.open_builder(spec.name, spec.dir)
    from research.data.images.builders import boxes  # TFDS is slow to import

    if not known and not isinstance(builder, boxes.BoxBuilder):
        raise ValueError(
            f"config.data.name={spec.name!r} has no boxes; choose bccd_voc, boxed_shapes, coco2017 or folder:PATH "
            "with images and annotations in the layout of Pascal VOC or COCO"
        )
    mean, std = (dataset.per_channel(getattr(spec, key), CHANNELS, key) for key in ("mean", "std"))
    shared = {
        "size": spec.image_size,
        "max_boxes": spec.max_boxes,
        "fill": tuple(round(value) for value in mean),
        "clip": spec.bad_boxes == "clip",
    }
    data = DetectionDataset(
        prepared=sources.Prepared(
            builder, spec.name, spec.validation_fraction, spec.fit_on, group=spec.group, half=spec.half
        ),
        train_transform=TrainBoxTransform(**shared, **{key: getattr(spec, key) for key in _AUGMENTATION}),
        eval_transform=EvalBoxTransform(**shared),
        workers=spec.workers,
        prefetch=spec.prefetch,
        class_names=tuple(builder.class_names),
        mean=mean,
        std=std,
        refuse=spec.bad_boxes == "refuse",
    )
    if data.is_prepared:
        data.check_content()
    return data


def _areas(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
