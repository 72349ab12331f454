"""Images of coloured shapes: synthetic data for segmentation and detection, without a download."""

import io
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from research.data.images.builders.boxes import BoxBuilder, Boxed, Object
from research.data.images.builders.masks import MaskBuilder, MaskedImage

SIZES = {"train": 160, "validation": 32, "test": 32}
SPLIT_SEED = 0
HEIGHT, WIDTH = 48, 64  # px
SHAPES = {"disc": (210, 60, 50), "box": (60, 160, 70), "triangle": (70, 80, 200)}  # with their mean colours
COUNT, RADIUS = (1, 4), (5, 11)  # shapes in an image; px
BORDER = 1  # px around a shape whose class is void


class Scene(NamedTuple):
    """Image uint8 [HEIGHT, WIDTH, 3], mask [HEIGHT, WIDTH] (0 is the background), boxes [n, 4] and labels [n]."""

    image: np.ndarray
    mask: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray


class ColouredShapes(MaskBuilder, skip_registration=True):
    """Splits of 160 / 32 / 32 images with masks; void along the borders of the shapes."""

    class_names = ("ground", *SHAPES)
    shape = (HEIGHT, WIDTH, 3)

    def _split_generators(self, dl_manager):
        rng = np.random.default_rng(SPLIT_SEED)
        scenes = {split: [draw(rng) for _ in range(size)] for split, size in SIZES.items()}
        return {split: self._generate_examples(split, map(_labelled, enumerate(scenes[split]))) for split in SIZES}


class BoxedShapes(BoxBuilder, skip_registration=True):
    """The same images with boxes."""

    class_names = tuple(SHAPES)

    def _split_generators(self, dl_manager):
        rng = np.random.default_rng(SPLIT_SEED)
        scenes = {split: [draw(rng) for _ in range(size)] for split, size in SIZES.items()}
        return {split: self._generate_examples(split, map(_boxed, enumerate(scenes[split]))) for split in SIZES}


def draw(rng: np.random.Generator) -> Scene:
    """A scene of 1 to 3 shapes, later ones in front; the box of an occluded shape includes its hidden part."""
    mask = Image.new("L", (WIDTH, HEIGHT))
    boxes, labels = [], []
    for _ in range(rng.integers(*COUNT)):
        radius = int(rng.integers(*RADIUS))
        x, y = int(rng.integers(radius, WIDTH - radius)), int(rng.integers(radius, HEIGHT - radius))
        label = int(rng.integers(len(SHAPES)))
        for grown, value in ((BORDER, 255), (0, label + 1)):
            _draw_shape(mask, label, x, y, radius + grown, value)
        boxes.append((x - radius, y - radius, x + radius + 1, y + radius + 1))
        labels.append(label)
    mask = np.asarray(mask)
    colours = np.array([(120, 120, 120), *SHAPES.values()])
    image = colours[np.where(mask == 255, 0, mask)] + rng.normal(0, 25, (HEIGHT, WIDTH, 3))
    return Scene(image.clip(0, 255).astype(np.uint8), mask, np.array(boxes, np.float32), np.array(labels))


def png(pixels: np.ndarray) -> bytes:
    """An encoded image."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def _draw_shape(mask: Image.Image, label: int, x: int, y: int, radius: int, value: int) -> None:
    canvas, box = ImageDraw.Draw(mask), (x - radius, y - radius, x + radius, y + radius)
    match list(SHAPES)[label]:
        case "disc":
            canvas.ellipse(box, fill=value)
        case "box":
            canvas.rectangle(box, fill=value)
        case "triangle":
            canvas.polygon([(x, y - radius), (x - radius, y + radius), (x + radius, y + radius)], fill=value)


def _labelled(numbered: tuple[int, Scene]) -> MaskedImage:
    number, scene = numbered
    return MaskedImage("shapes", f"{number:04}.png", png(scene.image), png(scene.mask), f"shapes/{number:04}_mask.png")


def _boxed(numbered: tuple[int, Scene]) -> Boxed:
    number, scene = numbered
    pairs = zip(scene.boxes, scene.labels, strict=True)
    objects = [
        Object((float(left), float(top), float(right), float(bottom)), list(SHAPES)[label])
        for (left, top, right, bottom), label in pairs
    ]
    return Boxed("shapes", f"{number:04}.png", png(scene.image), objects, f"shapes/{number:04}")
