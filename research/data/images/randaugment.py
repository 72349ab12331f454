"""RandAugment (Cubuk et al. 2020, arXiv:1909.13719): random operations with a common magnitude."""

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

GREY = 128
OPERATIONS = (
    "identity", "autocontrast", "equalize", "rotate", "solarize", "color", "posterize",
    "contrast", "brightness", "sharpness", "shear_x", "shear_y", "translate_x", "translate_y",
)  # fmt: skip
_ENHANCE = {
    "color": ImageEnhance.Color,
    "contrast": ImageEnhance.Contrast,
    "brightness": ImageEnhance.Brightness,
    "sharpness": ImageEnhance.Sharpness,
}


def apply(image: Image.Image, layers: int, magnitude: float, rng: np.random.Generator) -> Image.Image:
    """Applies `layers` of the paper's 14 operations, drawn with replacement, with `magnitude`.

    On the paper's scale, 10 is the end of AutoAugment's range of each operation; larger values go beyond it. The
    direction of operations that have one is random.
    """
    for operation in rng.choice(len(OPERATIONS), layers):
        image = operate(image, OPERATIONS[operation], magnitude / 10, sign=rng.choice((-1, 1)))
    return image


def operate(image: Image.Image, operation: str, strength: float, sign: int) -> Image.Image:
    """Applies one operation; `strength` 1 is the end of AutoAugment's range (Cubuk et al. 2019, table 6)."""
    signed = strength * sign
    match operation:
        case "identity":
            return image
        case "autocontrast":
            return ImageOps.autocontrast(image)
        case "equalize":
            return ImageOps.equalize(image)
        case "solarize":
            return ImageOps.solarize(image, max(0, round(256 * (1 - strength))))
        case "posterize":
            return ImageOps.posterize(image, max(1, round(8 - 4 * strength)))
        case "rotate":
            return image.rotate(30 * signed, Image.Resampling.BILINEAR, fillcolor=_grey(image))
        case "shear_x":
            return _affine(image, (1, 0.3 * signed, 0, 0, 1, 0))
        case "shear_y":
            return _affine(image, (1, 0, 0, 0.3 * signed, 1, 0))
        case "translate_x":
            return _affine(image, (1, 0, 150 / 331 * image.width * signed, 0, 1, 0))
        case "translate_y":
            return _affine(image, (1, 0, 0, 0, 1, 150 / 331 * image.height * signed))
        case _:
            return _ENHANCE[operation](image).enhance(max(0.0, 1 + 0.9 * signed))


def _affine(image: Image.Image, matrix: tuple[float, ...]) -> Image.Image:
    return image.transform(
        image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR, fillcolor=_grey(image)
    )


def _grey(image: Image.Image) -> int | tuple[int, ...]:
    return GREY if image.mode == "L" else (GREY,) * 3
