"""`load(config.data)`: pictures and their boxes as batches that are a function of (seed, step)."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from research.data import datasets, images, pipeline, recorded, sources, views

BAD_BOXES = ("clip", "drop", "refuse")
DEFAULTS: dict[str, Any] = {
    "name": "",  # bccd_voc, boxed_shapes, coco2017 or folder:PATH, see builders/box_folder.py
    "dir": "",  # where prepared data lie; "" is $TFDS_DATA_DIR or ~/tensorflow_datasets
    "validation_fraction": 0.1,  # of train, held out where the data set has no validation split
    "image_size": (0, 0),  # height and width in px of the canvas on which pictures are fitted
    "max_boxes": 100,  # in a picture; of more, which only mosaic should make, the largest are kept
    # Boxes that reach outside their picture are cut ("clip"), or left out ("drop"). Empty and inverted ones are left
    # out, unless any bad box is an error ("refuse").
    "bad_boxes": "clip",
    # Augmentation while training, see Train.
    "scale": (1.0, 1.0),
    "flip": False,
    "upside_down": False,
    "colour": 0.0,
    "mosaic": 0.0,
    "min_visible": 0.3,
    # For the normalisation in the compiled step: per channel (or one for all), in units of 0..255.
    "mean": (127.5,),
    "std": (127.5,),
    # Speed, never content.
    "workers": 0,
    "prefetch": 2,
}
CHANNELS = 3
MOSAIC_CENTRE = (0.3, 0.7)  # of the canvas


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """The picture as large as it fits into the upper left corner of a canvas of `size` (height, width in px)."""

    size: views.Size
    max_boxes: int
    fill: tuple[int, ...]
    clip: bool  # boxes that reach outside; else they are left out

    def __call__(self, example: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """`image` uint8 [height, width, 3], `boxes` [max_boxes, 4], `labels` and `box_weight` [max_boxes].

        Objects that are a crowd have no place among them.
        """
        image = images.decode(example["image"], CHANNELS)
        view = views.fitted(views.size_of(image), self.size)
        return self._arrays(view.picture(image, self.fill), *self._placed(view, image, example))

    def _placed(self, view: views.View, image: Image.Image, example) -> tuple[np.ndarray, np.ndarray]:
        """The good boxes of an example on the canvas, and their labels."""
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
class Train(Evaluate):
    """A random view of the picture, or a mosaic of four.

    scale                 of the picture that would just fit, log-uniform between these two; it lies anywhere
    flip, upside_down     each with probability 1/2
    colour                brightness, contrast and saturation, each times a factor that is uniform in 1 +- colour
    mosaic                how likely it is that three other examples share the canvas (Bochkovskiy et al., 2020)
    min_visible           a box of which less than this share is on the canvas is left out, others are cut
    """

    scale: tuple[float, float] = (1.0, 1.0)
    flip: bool = False
    upside_down: bool = False
    colour: float = 0.0
    mosaic: float = 0.0
    min_visible: float = 0.3
    others: Sequence[Mapping[str, Any]] | None = None  # the examples that a mosaic takes its parts from

    def __call__(self, example: Mapping[str, Any], rng: np.random.Generator) -> dict[str, np.ndarray]:
        """As in evaluation, with the random choices drawn from `rng`."""
        if self.mosaic and self.others is not None and rng.random() < self.mosaic:
            image, boxes, labels = self._mosaic(example, rng)
        else:
            image, boxes, labels = self._drawn(example, self.size, rng)
        if self.colour:
            image = images.jitter_colours(image, self.colour, rng)
        return self._arrays(image, boxes, labels)

    def _drawn(self, example, canvas: views.Size, rng) -> tuple[Image.Image, np.ndarray, np.ndarray]:
        """A picture on a canvas, and the boxes and labels that are to be seen there."""
        image = images.decode(example["image"], CHANNELS)
        size = views.size_of(image)
        base = min(self.size[0] / size[0], self.size[1] / size[1])
        view = views.drawn(size, canvas, self.scale, self.flip, rng, self.upside_down, base)
        boxes, labels = self._placed(view, image, example)
        seen = boxes.clip(0, [canvas[1], canvas[0]] * 2)
        kept = (_areas(seen) >= self.min_visible * _areas(boxes)) & (_areas(seen) > 0)
        return view.picture(image, self.fill), seen[kept], labels[kept]

    def _mosaic(self, example, rng) -> tuple[Image.Image, np.ndarray, np.ndarray]:
        """Four pictures around a random point."""
        height, width = self.size
        middle = [round(side * rng.uniform(*MOSAIC_CENTRE)) for side in self.size]
        examples = [example, *(self.others[int(index)] for index in rng.integers(len(self.others), size=3))]
        whole, boxes, labels = Image.new("RGB", (width, height), self.fill), [], []
        for number, part in enumerate(examples):
            top, bottom = ((0, middle[0]), (middle[0], height))[number // 2]
            left, right = ((0, middle[1]), (middle[1], width))[number % 2]
            image, seen, classes = self._drawn(part, (bottom - top, right - left), rng)
            whole.paste(image, (left, top))
            boxes.append(seen + np.array([left, top] * 2))
            labels.append(classes)
        return whole, np.concatenate(boxes), np.concatenate(labels)


@dataclasses.dataclass(frozen=True)
class Detections(datasets.Classed):
    """Pictures with boxes. A batch holds, beside `index` and `weight`:

    image       uint8 [batch, height, width, 3]
    boxes       float32 [batch, max_boxes, 4]: left, top, right and bottom in px of the canvas
    labels      int32 [batch, max_boxes]
    box_weight  float32 [batch, max_boxes]: 1, or 0 where there is no box
    """

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of the canvas."""
        return (*self.train_transform.size, CHANNELS)

    def train_batches(self, *args: Any, **kwargs: Any) -> Iterator[pipeline.Batch]:
        """As in Dataset; which examples a mosaic is made of depends on (seed, example, epoch) too."""
        others = self.source("train") if self.train_transform.mosaic else None
        ready = dataclasses.replace(self, train_transform=dataclasses.replace(self.train_transform, others=others))
        return super(Detections, ready).train_batches(*args, **kwargs)

    def reference(self, split: str, index: int) -> dict[str, Any]:
        """What a score compares with: `name`, `size`, and of the good boxes `boxes`, `labels`, `crowd` and `areas`."""
        example = self.source(split)[index]
        size = views.size_of(images.decode(example["image"], CHANNELS))
        boxes, kept = clean(example["boxes"], size, self.eval_transform.clip)
        changed = (boxes != example["boxes"]).any(1)
        areas = np.where(changed, _areas(boxes), example["areas"])
        given = {"boxes": boxes, "labels": example["labels"], "crowd": example["crowd"], "areas": areas}
        kept = {name: np.asarray(values)[kept] for name, values in given.items()}
        return {"name": example["name"].decode(), "size": size, **kept}

    def examples(self, pictures: Sequence[Image.Image]) -> dict[str, np.ndarray]:
        """A batch of pictures in which things are to be found."""
        nothing = {"boxes": np.zeros((0, 4), np.float32), "labels": [], "crowd": []}
        arrays = [self.eval_transform({"image": np.asarray(picture), **nothing}) for picture in pictures]
        batch = {name: np.stack([each[name] for each in arrays]) for name in arrays[0]}
        count = len(pictures)
        return {**batch, "index": np.full(count, -1, np.int32), "weight": np.zeros(count, np.float32)}

    def in_picture(self, boxes: np.ndarray, size: views.Size) -> np.ndarray:
        """Boxes [count, 4] on the canvas of evaluation, in px of a picture of `size`, cut at its border."""
        view = views.fitted(size, self.eval_transform.size)
        return view.back(boxes, size).clip(0, [size[1], size[0]] * 2)


def clean(boxes: np.ndarray, size: views.Size, clip: bool) -> tuple[np.ndarray, np.ndarray]:
    """The boxes [count, 4] of a picture of `size`, cut at its border, and which of them [count] are to be kept."""
    from research.data.builders.boxes import bad

    empty, outside = bad(boxes, size)
    return boxes.clip(0, [size[1], size[0]] * 2).astype(np.float32), ~empty & (clip | ~outside)


def load(config: Mapping[str, Any], known: recorded.Recorded | None = None) -> Detections:
    """The pictures and boxes that `config` (see DEFAULTS) describes; no example is read yet.

    A folder that has not been prepared, or that changed since, is prepared here; `known` is as in datasets.load.

    Raises ValueError for an unknown name,
    a bad setting, pictures with more boxes than `max_boxes`, and with bad_boxes="refuse" for bad boxes.
    """
    config = {**DEFAULTS, **config}
    builder = known or sources.open_builder(config["name"], config["dir"])
    from research.data.builders import boxes  # here, since TFDS is slow to import

    if not known and not isinstance(builder, boxes.BoxBuilder):
        raise ValueError(
            f"config.data.name={config['name']!r} has no boxes; choose bccd_voc, boxed_shapes, coco2017 or folder:PATH "
            "with pictures and annotations as Pascal VOC or COCO have them"
        )
    _check(config)
    builder = datasets.prepared(builder, config)
    if sources.is_prepared(builder):
        _check_content(config, builder)
    mean, std = (datasets.per_channel(config[key], CHANNELS, key) for key in ("mean", "std"))
    shared = {
        "size": tuple(config["image_size"]),
        "max_boxes": config["max_boxes"],
        "fill": tuple(round(value) for value in mean),
        "clip": config["bad_boxes"] == "clip",
    }
    augmentation = ("scale", "flip", "upside_down", "colour", "mosaic", "min_visible")
    return Detections(
        prepared=sources.Prepared(builder, config["name"], config["validation_fraction"]),
        train_transform=Train(**shared, **{key: config[key] for key in augmentation}),
        eval_transform=Evaluate(**shared),
        workers=config["workers"],
        prefetch=config["prefetch"],
        class_names=tuple(builder.class_names),
        mean=mean,
        std=std,
    )


def _check(config: Mapping[str, Any]) -> None:
    size, scale = config["image_size"], config["scale"]
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f"config.data.image_size={tuple(size)} must be a height and a width in px")
    if config["max_boxes"] < 1:
        raise ValueError(f"config.data.max_boxes={config['max_boxes']} must be at least 1")
    if config["bad_boxes"] not in BAD_BOXES:
        raise ValueError(
            f"config.data.bad_boxes={config['bad_boxes']!r} is unknown; choose from {', '.join(BAD_BOXES)}"
        )
    if len(scale) != 2 or not 0 < scale[0] <= scale[1]:
        raise ValueError(f"config.data.scale={tuple(scale)} must be two factors above 0, the smaller one first")
    for key in ("colour", "mosaic", "min_visible"):
        if not 0 <= config[key] <= 1:
            raise ValueError(f"config.data.{key}={config[key]} must lie between 0 and 1")
    datasets.check_fraction(config)


def _check_content(config: Mapping[str, Any], builder) -> None:
    metadata = builder.info.metadata
    if metadata["most"] > config["max_boxes"]:
        raise ValueError(
            f"config.data.max_boxes={config['max_boxes']} is less than the {metadata['most']} boxes of a picture of "
            f"{config['name']!r}"
        )
    entries = [entry for kind in metadata["bad"].values() for entry in kind]
    if entries and config["bad_boxes"] == "refuse":
        raise ValueError(
            f"{config['name']!r} has {len(entries)} bad boxes, the first in {min(entries)}; fix them, or set "
            "config.data.bad_boxes to clip or drop"
        )


def _areas(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
