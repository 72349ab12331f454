"""Decodes untrusted image files to upright pixels of 8 bits, or raises an error with the reason.

Every image file is read here, for preparation, training and prediction. Only FORMATS are tried, so that no file reaches
an interpreter (as EPS would). Of an animation or a multi-page file, the first frame is read.
"""

import contextlib
import functools
import io
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

FORMATS = ("AVIF", "BMP", "DIB", "GIF", "JPEG", "JPEG2000", "PCX", "PNG", "PPM", "TIFF", "WEBP")
ORIENTATION = 0x0112  # the EXIF tag
# The transposition that makes stored pixels upright, for each value of the tag except 1 (upright).
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
MASK_MODES = ("1", "L", "P", "I", "I;16", "I;16B", "I;16L")


@functools.cache
def suffixes() -> frozenset[str]:
    """The suffixes, in lower case, of image files."""
    names = {*FORMATS, "MPO"}  # an MPO file begins with a JPEG
    return frozenset(ending for ending, name in Image.registered_extensions().items() if name in names)


def decode(encoded: bytes, channels: int) -> Image.Image:
    """Decodes an image.

    Args:
        encoded: the bytes of a file in one of FORMATS.
        channels: 1 (grey) or 3 (RGB). Transparency is ignored: a pixel keeps its stored colour.

    Returns:
        The image upright (EXIF), of mode "L" or "RGB". 16 bits are scaled to 8 by their full range.

    Raises:
        ValueError: the reason, as the end of a sentence that begins with the name of the image.
    """
    image = _load(encoded)
    mode = "L" if channels == 1 else "RGB"
    if image.mode == mode:
        return image
    image = _to_eight_bits(image)
    with _reasons():
        if image.mode == "P" and "transparency" in image.info:
            image = image.convert("RGBA")  # avoids a warning; colours are unchanged
        image.info.pop("transparency", None)
        return image.convert(mode)


def decode_mask(encoded: bytes) -> np.ndarray:
    """The class indices uint8 [height, width] of an encoded mask: grey levels, or palette indices.

    Raises ValueError as `decode` does, also for several channels, and for values beyond 8 bits.
    """
    image = _load(encoded)
    if image.mode not in MASK_MODES:
        raise ValueError(f"has the channels {image.mode}; one channel of class indices is needed")
    if image.format in ("JPEG", "MPO"):
        raise ValueError("is a JPEG, whose compression changes class indices; store masks as PNG")
    numbers = np.asarray(image)
    for number in (numbers.max(), numbers.min()):
        if not 0 <= number <= 255:
            raise ValueError(f"holds the class index {number}; a mask may hold 0 to 255")
    return numbers.astype(np.uint8)


def read(path: str, channels: int) -> Image.Image:
    """The image file at `path`, see decode. Raises ValueError, with its name, if it cannot be read."""
    try:
        with open(path, "rb") as file:
            encoded = file.read()
    except (OSError, ValueError) as error:  # the latter for a name with a null byte
        raise ValueError(f"image {path!r} cannot be read: {getattr(error, 'strerror', '') or error}") from None
    try:
        return decode(encoded, channels)
    except ValueError as error:
        raise ValueError(f"image {path!r} cannot be read: it {error}") from None


def orientation(encoded: bytes) -> int:
    """The EXIF orientation of a stored image, 1 to 8; 1 if it has none. From 5 on, height and width are swapped."""
    _silence_warnings()
    with _reasons():
        return _orientation(Image.open(io.BytesIO(encoded), formats=FORMATS))


def size(path: Path) -> tuple[int, int] | None:
    """Height and width of the upright image, from the header of the file; None if it cannot be read."""
    _silence_warnings()
    try:
        with _reasons(), Image.open(path, formats=FORMATS) as image:
            turned = _orientation(image) >= 5
            return (image.width, image.height) if turned else (image.height, image.width)
    except ValueError:  # decoding it will raise the error
        return None


def _load(encoded: bytes) -> Image.Image:
    """The image as stored in its file, but upright and in memory."""
    _silence_warnings()
    with _reasons():
        image = Image.open(io.BytesIO(encoded), formats=FORMATS)
        image.load()
    kind = image.format
    image = _upright(image)
    image.format = kind  # transposing drops it; `_to_eight_bits` needs it
    return image


def _upright(image: Image.Image) -> Image.Image:
    orientation = _orientation(image)  # the TIFF decoder has applied it already
    return image.transpose(UPRIGHT[orientation]) if orientation in UPRIGHT else image


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(ORIENTATION)  # also from XMP
    except Exception:  # noqa: BLE001  Pillow's parsers raise nearly anything on broken EXIF, which is then ignored
        return 1
    return value if value in UPRIGHT else 1


def _to_eight_bits(image: Image.Image) -> Image.Image:
    if image.mode not in ("I", "F") and not image.mode.startswith("I;16"):
        return image
    if image.mode == "F" or (image.mode == "I" and image.format not in ("PNG", "PPM")):
        bits = "floating-point numbers" if image.mode == "F" else "32-bit numbers"
        raise ValueError(f"holds {bits}, whose range is unknown; store it with 8 or 16 bits per channel")
    levels = np.asarray(image).astype(np.uint32)
    return Image.fromarray(((levels + 128) // 257).astype(np.uint8))


def _silence_warnings() -> None:
    """Silences Pillow's warnings about size (it refuses images of twice that size) and broken EXIF (ignored here).

    Called for every image, since tests and libraries reset the filters; a filter is not added twice.
    """
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
    warnings.filterwarnings("ignore", message="(Possibly c|C)orrupt EXIF data", category=UserWarning)
    warnings.filterwarnings("ignore", message="Truncated File Read", category=UserWarning)


@contextlib.contextmanager
def _reasons() -> Iterator[None]:
    """Context manager that turns Pillow's errors into a one-line ValueError."""
    try:
        yield
    except Image.DecompressionBombError:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise ValueError(f"has more than the allowed {limit:,} pixels; resize it") from None
    except Image.UnidentifiedImageError:
        raise ValueError(f"cannot be decoded (it is none of {', '.join(FORMATS)})") from None
    except Exception as error:  # noqa: BLE001  Pillow's decoders raise nearly anything on broken bytes
        text = " ".join(str(error).split())
        raise ValueError(f"cannot be decoded ({type(error).__name__}: {text})") from None
