"""Draws predictions onto images with Pillow."""

import colorsys
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFont

Colour = tuple[int, int, int]
MIN_SIDE = 480  # px; smaller images are enlarged, so that labels are readable
ROW, SWATCH, MARGIN = 20, 14, 8  # px, of a legend


def palette(colours: Sequence[str]) -> list[Colour]:
    """A colour for each class: "#rrggbb" as given, and for "" one with a distinct hue."""
    golden = 0.618034  # steps of the golden ratio give well-spread hues
    hues = [colorsys.hsv_to_rgb(number * golden % 1, 0.75, 0.95) for number in range(len(colours))]
    made = [(round(255 * red), round(255 * green), round(255 * blue)) for red, green, blue in hues]
    return [ImageColor.getrgb(given)[:3] if given else own for given, own in zip(colours, made, strict=True)]


def enlarged(image: Image.Image, resampling: Image.Resampling = Image.Resampling.BILINEAR) -> Image.Image:
    """Enlarges `image` by an integer factor so that its longer side has at least MIN_SIDE px."""
    factor = max(1, -(-MIN_SIDE // max(image.size)))
    return image.resize((image.width * factor, image.height * factor), resampling) if factor > 1 else image


def overlay(
    image: Image.Image, mask: np.ndarray, names: Sequence[str], colours: Sequence[str], strength: float = 0.5
) -> Image.Image:
    """`image` blended with the class colours of `mask` [height, width], with a legend of names and shares.

    `strength` is the weight of the colours. Void pixels are unchanged.
    """
    table = np.zeros((256, 3), np.float32)
    table[: len(names)] = palette(colours)
    tinted = np.asarray(image.convert("RGB"), np.float32)
    tinted = np.where((mask < len(names))[..., None], (1 - strength) * tinted + strength * table[mask], tinted)
    counts = np.bincount(mask.ravel(), minlength=256)[: len(names)]
    order = [number for number in np.argsort(-counts, kind="stable") if counts[number]]
    entries = [(f"{names[number]} {counts[number] / mask.size:.1%}", palette(colours)[number]) for number in order]
    return with_legend(enlarged(Image.fromarray(tinted.round().astype(np.uint8))), entries)


def with_legend(image: Image.Image, entries: Sequence[tuple[str, Colour]]) -> Image.Image:
    """`image` with a legend of names and colours at its right."""
    font = ImageFont.load_default(size=13)
    width = max((round(font.getlength(name)) for name, _ in entries), default=0) + SWATCH + 3 * MARGIN
    height = max(image.height, ROW * len(entries) + 2 * MARGIN)
    canvas = Image.new("RGB", (image.width + width, height), "white")
    canvas.paste(image, (0, 0))
    draw = ImageDraw.Draw(canvas)
    for row, (name, colour) in enumerate(entries):
        left, top = image.width + MARGIN, MARGIN + ROW * row
        draw.rectangle((left, top, left + SWATCH, top + SWATCH), fill=colour, outline="black")
        draw.text((left + SWATCH + MARGIN, top), name, fill="black", font=font)
    return canvas


def boxes(
    image: Image.Image,
    found: Sequence[Sequence[float]],
    labels: Sequence[int],
    scores: Sequence[float],
    names: Sequence[str],
) -> Image.Image:
    """`image` with boxes (left, top, right, bottom in px), each with its class and score, in the colours of classes."""
    drawn = enlarged(image.convert("RGB"))
    factor, colours = drawn.width / image.width, palette([""] * len(names))
    font, draw = ImageFont.load_default(size=12), ImageDraw.Draw(drawn)
    for box, label, score in zip(found, labels, scores, strict=True):
        left, top, right, bottom = (factor * side for side in box)
        draw.rectangle((left, top, max(left, right), max(top, bottom)), outline=colours[label], width=2)
        text = f"{names[label]} {score:.2f}"
        corner = (left, max(0, top - 14))
        draw.rectangle(draw.textbbox(corner, text, font=font), fill=colours[label])
        draw.text(corner, text, fill="black", font=font)
    return drawn
