"""Image transforms on the host: decoding, crops, flips, affine maps, brightness, erasing, with Pillow.

They work on `PIL.Image` and return uint8 [height, width, channels]; normalisation, mixup and cutmix are part of the
compiled step. All random choices use the generator that is passed in.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from research.data.images import files as image_files

INTERPOLATIONS = {method.name.lower(): method for method in Image.Resampling}
# Length in px of the side `side` when the `short` side is resized to `size`: rounding rules.
LONG_SIDES: dict[str, Callable[[int, int, int], int]] = {
    "round": lambda side, size, short: round(side * (size / short)),
    "floor": lambda side, size, short: side * size // short,
}
ERASED_SHARES, ERASED_RATIOS = (0.02, 0.33), (0.3, 1 / 0.3)  # of the area of an image; height to width


@dataclasses.dataclass(frozen=True)
class EvalImageTransform:
    """Decodes an image, resizes the shorter side to `resize` px, takes the central `size` x `size` crop.

    Attributes:
        size: px of the crop.
        resize: px of the shorter side.
        channels: 1 (grey) or 3 (RGB).
        image_key: The field of an example with the encoded image.
        label_key: The field of an example with the label.
        stretch: Resize both sides to `resize` px (stretch) instead of keeping the aspect ratio.
        interpolation: For resizing, one of INTERPOLATIONS.
        long_side: Rounding of the longer side, one of LONG_SIDES; torchvision and transformers use "floor".
        illumination: Illumination normalisation before resizing, one of ILLUMINATIONS.
    """

    size: int
    resize: int
    channels: int
    image_key: str = "image"
    label_key: str = "label"
    stretch: bool = False
    interpolation: str = "bilinear"
    long_side: str = "round"
    illumination: str = "none"

    def __call__(self, example: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """The arrays `image` uint8 [size, size, channels] and `label` int32 of an example with an encoded image."""
        return _arrays(self.frame(decode(example[self.image_key], self.channels)), example[self.label_key])

    def frame(self, image: Image.Image) -> Image.Image:
        """`image` after illumination normalisation, resizing and the central crop."""
        return central_crop(self._resized(self._normalise_illumination(image)), self.size)

    def _normalise_illumination(self, image: Image.Image) -> Image.Image:
        return ILLUMINATIONS[self.illumination](image)

    def _resized(self, image: Image.Image) -> Image.Image:
        resampling = INTERPOLATIONS[self.interpolation]
        if self.stretch:
            return image.resize((self.resize, self.resize), resampling)
        return resize_shorter(image, self.resize, resampling, LONG_SIDES[self.long_side])


@dataclasses.dataclass(frozen=True)
class TrainImageTransform(EvalImageTransform):
    """Decodes an image; then crop, affine map, flip, RandAugment, brightness and contrast, random erasing, if enabled.

    Attributes:
        crop: "none": as in evaluation; "pad": as in evaluation, then pad by `pad` px and crop at random (He et al.
            2016); "random": resize the shorter side to `resize` px and crop at random (Krizhevsky et al. 2012);
            "inception": 8 to 100 % of the area at an aspect ratio of 3/4 to 4/3 (Szegedy et al. 2015).
        pad: px added on each side, for crop="pad".
        pad_mode: What is added: "zeros", or "reflect" for reflections about the outermost px.
        flip: Horizontal flip with probability 1/2.
        alternating_flip: The flip is not random, but the `turn` of the call.
        rotate: Rotation in degrees, uniform in +-`rotate`.
        shift: Translation in px, uniform in +-`shift`.
        scale: Scaling factor, uniform in 1 +- `scale`.
        randaugment_layers: See randaugment.py.
        randaugment_magnitude: See randaugment.py.
        brightness: Brightness factor, uniform in 1 +- `brightness`.
        contrast: Contrast factor about the mean of the image, uniform in 1 +- `contrast`.
        random_erasing: Probability that a rectangle of 2 to 33 % of the area becomes noise (Zhong et al. 2020).
    """

    crop: str = "none"
    pad: int = 4
    pad_mode: str = "zeros"
    flip: bool = False
    alternating_flip: bool = False
    rotate: float = 0.0
    shift: float = 0.0
    scale: float = 0.0
    randaugment_layers: int = 0
    randaugment_magnitude: float = 10.0
    brightness: float = 0.0
    contrast: float = 0.0
    random_erasing: float = 0.0

    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride]  training needs a generator too
        self, example: Mapping[str, Any], rng: np.random.Generator, turn: bool = False
    ) -> dict[str, np.ndarray]:
        """As in evaluation, with the random choices drawn from `rng`; `turn` decides an alternating flip."""
        image = self._crop(decode(example[self.image_key], self.channels), rng)
        if self.rotate or self.shift or self.scale:
            image = random_affine(image, self.rotate, self.shift, self.scale, rng)
        if self.flip and (turn if self.alternating_flip else rng.random() < 0.5):
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if self.randaugment_layers:
            from research.data.images import randaugment

            image = randaugment.apply(image, self.randaugment_layers, self.randaugment_magnitude, rng)
        if self.brightness or self.contrast:
            image = jitter_brightness(image, self.brightness, self.contrast, rng)
        arrays = _arrays(image, example[self.label_key])
        if self.random_erasing and rng.random() < self.random_erasing:
            arrays["image"] = random_erase(arrays["image"], rng)
        return arrays

    def _crop(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        if self.crop == "inception":
            return inception_crop(
                self._normalise_illumination(image), self.size, rng, INTERPOLATIONS[self.interpolation]
            )
        if self.crop == "random":
            return random_crop(self._resized(self._normalise_illumination(image)), self.size, rng)
        image = self.frame(image)
        return random_crop(image, self.size, rng, self.pad, self.pad_mode) if self.crop == "pad" else image


class Decoded(Sequence[Mapping[str, Any]]):
    """The examples of `source` with decoded images, cached in memory when first used."""

    def __init__(self, source: Sequence[Mapping[str, Any]], image_key: str, channels: int):
        self._source, self._image_key, self._channels = source, image_key, channels
        self._kept: dict[int, dict[str, Any]] = {}

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> dict[str, Any]:  # pyright: ignore[reportIncompatibleMethodOverride]  no slices
        if index not in self._kept:
            example = self._source[index]
            encoded = example[self._image_key]
            if isinstance(encoded, bytes):
                pixels = np.asarray(decode(encoded, self._channels))
            else:  # the frames of a clip
                pixels = [np.asarray(decode(frame, self._channels)) for frame in encoded]
            self._kept[index] = {**example, self._image_key: pixels}
        return self._kept[index]

    def __getstate__(self):  # for worker processes, each of which has its own cache
        return self.__dict__ | {"_kept": {}}


def decode(encoded: bytes | np.ndarray, channels: int) -> Image.Image:
    """Decodes an image to 1 (grey) or 3 (RGB) channels, upright, see image_files.decode.

    An array is an image that `Decoded` has cached, already decoded.
    """
    return Image.fromarray(encoded) if isinstance(encoded, np.ndarray) else image_files.decode(encoded, channels)


def jitter_colours(image: Image.Image, strength: float, rng: np.random.Generator) -> Image.Image:
    """Color jitter: brightness, contrast and saturation, each by a factor uniform in 1 +- `strength`."""
    for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        image = enhance(image).enhance(rng.uniform(1 - strength, 1 + strength))
    return image


def resize_shorter(
    image: Image.Image,
    size: int,
    resampling: Image.Resampling = Image.Resampling.BILINEAR,
    long_side: Callable[[int, int, int], int] = LONG_SIDES["round"],
) -> Image.Image:
    """Resizes the shorter side of `image` to `size` px, keeping the aspect ratio; see LONG_SIDES."""
    width, height = image.size
    if min(width, height) == size:
        return image
    short = min(width, height)
    return image.resize((long_side(width, size, short), long_side(height, size, short)), resampling)


def central_crop(image: Image.Image, size: int) -> Image.Image:
    """The central `size` x `size` px."""
    width, height = image.size
    if width == height == size:
        return image
    left, top = (width - size) // 2, (height - size) // 2
    return image.crop((left, top, left + size, top + size))


def random_crop(
    image: Image.Image, size: int, rng: np.random.Generator, pad: int = 0, pad_mode: str = "zeros"
) -> Image.Image:
    """A random `size` x `size` px crop of the image, padded by `pad` px of zeros, or of its reflection ("reflect")."""
    width, height = image.size
    left = _uniform(-pad, width - size + pad, rng)
    top = _uniform(-pad, height - size + pad, rng)
    if pad and pad_mode == "reflect":
        rows, columns = _reflected(top, size, height), _reflected(left, size, width)
        return Image.fromarray(np.asarray(image)[rows[:, None], columns])
    return image.crop((left, top, left + size, top + size))  # Pillow reads zeros outside the image


def inception_crop(
    image: Image.Image, size: int, rng: np.random.Generator, resampling: Image.Resampling = Image.Resampling.BILINEAR
) -> Image.Image:
    """A random crop of 8 to 100 % of the area and aspect ratio 3/4 to 4/3 (log-uniform), resized to `size` x `size`.

    If ten draws do not fit into the image, the central crop of evaluation.
    """
    width, height = image.size
    for _ in range(10):
        area = width * height * rng.uniform(0.08, 1.0)
        ratio = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = _uniform(0, width - w, rng), _uniform(0, height - h, rng)
            box = (left, top, left + w, top + h)
            return image.resize((size, size), resampling, box=box)
    return central_crop(resize_shorter(image, size, resampling), size)


def random_affine(
    image: Image.Image, rotate: float, shift: float, scale: float, rng: np.random.Generator
) -> Image.Image:
    """Rotates by up to `rotate` degrees and scales by 1 +- `scale` about the centre, translates by up to `shift` px."""
    angle = math.radians(rng.uniform(-rotate, rotate))
    dx, dy = rng.uniform(-shift, shift, 2)
    factor = rng.uniform(1 - scale, 1 + scale)
    cos, sin = math.cos(angle) / factor, math.sin(angle) / factor
    x, y = image.width / 2, image.height / 2
    # Pillow takes the map from output to input coordinates.
    matrix = (cos, sin, x - cos * (x + dx) - sin * (y + dy), -sin, cos, y + sin * (x + dx) - cos * (y + dy))
    return image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)


def jitter_brightness(image: Image.Image, brightness: float, contrast: float, rng: np.random.Generator) -> Image.Image:
    """Scales pixels by a factor in 1 +- `brightness`, and differences from their mean by one in 1 +- `contrast`."""
    gain, stretch = rng.uniform(1 - brightness, 1 + brightness), rng.uniform(1 - contrast, 1 + contrast)
    mean = np.asarray(image).mean()
    levels = np.clip(np.round(gain * (mean + stretch * (np.arange(256) - mean))), 0, 255).astype(np.uint8)
    return image.point(levels.tolist() * len(image.getbands()))


def local_contrast(image: Image.Image) -> Image.Image:
    """Tan-Triggs illumination normalisation of each channel.

    Gamma correction by 0.2, a difference of Gaussians of 1 and 2 px, contrast equalisation in two stages (the second
    ignores the largest values), and a tanh that bounds the result to +-10, here 0 to 255 (Tan and Triggs, "Enhanced
    Local Texture Feature Sets for Face Recognition Under Difficult Lighting Conditions", 2010, section II).
    """
    from scipy import ndimage  # slow to import

    bands = np.atleast_3d(np.asarray(image)).astype(np.float32)
    powers = (bands + 1) ** 0.2  # similar to a logarithm, with less noise in dark regions
    blurred = [ndimage.gaussian_filter(powers, (sigma, sigma, 0)) for sigma in (1, 2)]
    contrast = blurred[0] - blurred[1]
    for most in (np.inf, 10.0):
        mean = np.mean(np.minimum(np.abs(contrast), most) ** 0.1, (0, 1)) ** 10
        contrast = contrast / np.maximum(mean, 1e-6)  # 0 in an image of one colour
    pixels = np.round(127.5 + 127.5 * np.tanh(contrast / 10)).astype(np.uint8)
    return Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels)


ILLUMINATIONS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "none": lambda image: image,
    "equalized": ImageOps.equalize,
    "tan_triggs": local_contrast,
}


def random_erase(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Random erasing: `pixels` [height, width, channels] with a rectangle of noise.

    If ten draws do not fit into the image, `pixels` unchanged.
    """
    height, width, channels = pixels.shape
    for _ in range(10):
        area = height * width * rng.uniform(*ERASED_SHARES)
        ratio = math.exp(rng.uniform(*np.log(ERASED_RATIOS)))
        h, w = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < h <= height and 0 < w <= width:
            top, left = _uniform(0, height - h, rng), _uniform(0, width - w, rng)
            erased = pixels.copy()
            erased[top : top + h, left : left + w] = rng.integers(0, 256, (h, w, channels), np.uint8)
            return erased
    return pixels


def to_array(image: Image.Image) -> np.ndarray:
    """uint8 [height, width, channels]."""
    pixels = np.asarray(image)
    return pixels if pixels.ndim == 3 else pixels[:, :, None]


def _reflected(start: int, count: int, length: int) -> np.ndarray:
    """The indices of `count` px from `start` on, of `length` px that are reflected about the first and the last."""
    indices = np.abs(np.arange(start, start + count)) % max(2 * length - 2, 1)
    return np.minimum(indices, 2 * length - 2 - indices)


def _uniform(low: int, high: int, rng: np.random.Generator) -> int:
    """An integer from `low` to `high` inclusive; four times as fast as `rng.integers` for a single one."""
    return low + int(rng.random() * (high - low + 1))


def _arrays(image: Image.Image, label: int) -> dict[str, np.ndarray]:
    return {"image": to_array(image), "label": np.asarray(label, np.int32)}
