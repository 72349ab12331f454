"""Resizing, padding, cropping and flipping, applied alike to an image, its mask and its boxes."""

import dataclasses
import math

import numpy as np
from PIL import Image

Size = tuple[int, int]  # height, width in px
VOID = 255  # the value of unlabelled pixels of a mask


@dataclasses.dataclass(frozen=True)
class View:
    """A geometric transform: resize to `resized`, crop or pad to `canvas`, flip.

    Attributes:
        canvas: Height and width of the output in px.
        resized: Height and width of the resized image in px.
        top: The row of the resized image that becomes the first of the canvas; negative: padding above.
        left: The same for columns.
        flip: Whether to flip horizontally.
        vertical_flip: Whether to flip vertically.
    """

    canvas: Size
    resized: Size
    top: int = 0
    left: int = 0
    flip: bool = False
    vertical_flip: bool = False

    def image(self, image: Image.Image, fill: tuple[int, ...]) -> Image.Image:
        """The transformed image, resized bilinearly; `fill` is the colour of the padding."""
        grey = len(fill) == 1
        return self._transform(image, Image.Resampling.BILINEAR, fill[0] if grey else fill)

    def mask(self, mask: np.ndarray) -> np.ndarray:
        """The transformed mask uint8 [height, width], by nearest neighbours; the padding is VOID."""
        return np.asarray(self._transform(Image.fromarray(mask), Image.Resampling.NEAREST, VOID))

    def boxes(self, boxes: np.ndarray, size: Size) -> np.ndarray:
        """The transformed boxes [count, 4] (left, top, right, bottom in px) of an image of `size`; not clipped."""
        scale = np.array([self.resized[1] / size[1], self.resized[0] / size[0]] * 2)
        return self._mirrored(boxes * scale - np.array([self.left, self.top] * 2))

    def back(self, boxes: np.ndarray, size: Size) -> np.ndarray:
        """The inverse of `boxes`."""
        scale = np.array([self.resized[1] / size[1], self.resized[0] / size[0]] * 2)
        return (self._mirrored(np.array(boxes, np.float64)) + np.array([self.left, self.top] * 2)) / scale

    def _mirrored(self, boxes: np.ndarray) -> np.ndarray:
        """`boxes` on the canvas, flipped; its own inverse."""
        if self.flip:
            boxes[:, [0, 2]] = self.canvas[1] - boxes[:, [2, 0]]
        if self.vertical_flip:
            boxes[:, [1, 3]] = self.canvas[0] - boxes[:, [3, 1]]
        return boxes

    def _transform(self, image: Image.Image, resampling: Image.Resampling, fill: int | tuple[int, ...]) -> Image.Image:
        height, width = self.resized
        if image.size != (width, height):
            image = image.resize((width, height), resampling)
        if self.resized != self.canvas or self.top or self.left:
            placed = Image.new(image.mode, (self.canvas[1], self.canvas[0]), fill)
            placed.paste(image, (-self.left, -self.top))
            image = placed
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if self.flip else image
        return image.transpose(Image.Transpose.FLIP_TOP_BOTTOM) if self.vertical_flip else image


def size_of(image: Image.Image) -> Size:
    """Height and width."""
    return image.height, image.width


def corner(size: Size, canvas: Size) -> View:
    """The view that puts an unscaled image of `size` into the upper left corner of the canvas."""
    return View(canvas, size)


def fitted(size: Size, canvas: Size) -> View:
    """The view that fits an image of `size` into the canvas, aspect ratio kept, in the upper left corner."""
    return View(canvas, _times(size, min(canvas[0] / size[0], canvas[1] / size[1]), most=canvas))


def drawn(
    size: Size,
    canvas: Size,
    scale: tuple[float, float],
    flip: bool,
    rng: np.random.Generator,
    vertical_flip: bool = False,
    base: float = 1.0,
) -> View:
    """A random view of an image of `size`.

    Args:
        size: Height and width of the image in px.
        canvas: Height and width of the output in px.
        scale: The range of the resizing factor, which is log-uniform.
        flip: Whether to flip horizontally with probability 1/2.
        rng: The source of the random choices.
        vertical_flip: Whether to flip vertically with probability 1/2.
        base: A constant resizing factor, multiplied with the random one.

    Returns:
        A view whose offset is uniform among those at which the image covers the canvas, or lies inside it.
    """
    factor = math.exp(rng.uniform(*np.log(scale))) if scale[0] < scale[1] else scale[0]
    resized = _times(size, base * factor)
    top, left = (_between(0, whole - part, rng) for whole, part in zip(resized, canvas, strict=True))
    return View(canvas, resized, top, left, flip and rng.random() < 0.5, vertical_flip and rng.random() < 0.5)


def _times(size: Size, factor: float, most: Size | None = None) -> Size:
    height, width = (max(1, round(side * factor)) for side in size)
    return (min(height, most[0]), min(width, most[1])) if most else (height, width)


def _between(one: int, other: int, rng: np.random.Generator) -> int:
    """A uniform integer between two bounds in any order, both included."""
    low, high = sorted((one, other))
    return low + int(rng.random() * (high - low + 1))
