"""The figures of a trust report."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from research.metrics import scripts
from research.report import figures
from research.trust.showing import ImageOf

_WIDTH, _LINE, _MARGIN = 1000, 22, 10  # px, of drawn texts
_COLUMNS = 5  # of mistakes


def corruptions(content: Mapping[str, Any], path: Path) -> None:
    """The score of each kind by severity."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), dpi=120, layout="constrained")
    axes = figure.subplots()
    for kind, values in content["kinds"].items():
        axes.plot(range(6), [content["clean"], *values], linewidth=1.2, label=kind.replace("_", " "))
    axes.set(xlabel="severity", ylabel=content["metric"])
    axes.set_ylim(bottom=0)
    figures.tidy(axes, "corruptions, test split")
    axes.legend(fontsize=7, frameon=False, ncols=2, loc="lower left")
    figures.save(figure, path)


def maps(examples: Sequence[Mapping[str, Any]], image: ImageOf, path: Path) -> bool:
    """Scores of parts drawn over their inputs, see explaining.examples; False if these are not shown."""
    if "tokens" in examples[0]:
        return _texts(examples, path)
    images = [pixels for each in examples if (pixels := image("test", each["index"])) is not None]
    if not images:
        return False
    methods = list(examples[0]["maps"])
    axes, figure = _grid(len(examples), 1 + len(methods))
    for place, method in zip(axes[0], ["image", *methods], strict=True):
        place.set_title(method, fontsize=8)
    for row, each, pixels in zip(axes, examples, images, strict=True):
        row[0].set_ylabel(str(each.get("class", each.get("person", each["index"]))), fontsize=7)
        for place, method in zip(row, ["", *methods], strict=True):
            scores = np.array(each["maps"][method]) if method else None
            moment = _moment(each, methods[-1])
            place.imshow(_rgb(pixels, moment))
            if scores is not None:
                height, width = pixels.shape[-3:-1]
                shown = scores[moment[0]] if moment and scores.ndim == 3 else scores
                extent = (-0.5, width - 0.5, height - 0.5, -0.5)
                place.imshow(shown, cmap="inferno", alpha=0.55, extent=extent, interpolation="bilinear")
    figures.save(figure, path)
    return True


def _moment(example: Mapping[str, Any], method: str) -> tuple[int, int] | None:
    """The time of a clip with the highest scores, and the number of times; None for an image."""
    scores = np.array(example["maps"][method])
    return (int(scores.sum((1, 2)).argmax()), len(scores)) if scores.ndim == 3 else None


def pairs(found: Sequence[Mapping[str, Any]], image: ImageOf, path: Path) -> bool:
    """The images of pairs of a test and a train example; False if they are not shown."""
    sides = [[image(split, each[split]["index"]) for split in ("test", "train")] for each in found]
    if sides[0][0] is None:
        return False
    axes, figure = _grid(2, len(found))
    for column, each in enumerate(sides):
        for row, pixels in enumerate(each):
            axes[row][column].imshow(_rgb(pixels))
        axes[0][column].set_title(f"{found[column]['similarity']:.4f}", fontsize=8)
    for row, split in enumerate(("test", "train")):
        axes[row][0].set_ylabel(split, fontsize=8)
    figures.save(figure, path)
    return True


def mistakes(lines: Sequence[Mapping[str, Any]], image: ImageOf, path: Path) -> bool:
    """The images of mistakes, with class and prediction or score; False if they are not shown."""
    if "index" not in lines[0] or image("test", lines[0]["index"]) is None:
        return False
    axes, figure = _grid(-(-len(lines) // _COLUMNS), _COLUMNS)
    for line, place in zip(lines, axes.ravel(), strict=False):
        place.imshow(_rgb(image("test", line["index"])))
        *_, last = line.items()
        title = f"{line['class']}: {line['predicted']}" if "predicted" in line else f"{last[0]} {last[1]:.3g}"
        place.set_title(title, fontsize=7)
    figures.save(figure, path)
    return True


def _grid(rows: int, columns: int) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.6 * columns, 1.6 * rows), dpi=110, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for place in axes.ravel():
        place.set(xticks=[], yticks=[])
        place.spines[:].set_visible(False)
    return axes, figure


def _rgb(pixels: Any, moment: tuple[int, int] | None = None) -> np.ndarray:
    """An image, or the frame of a clip at a moment or in its middle, uint8 [height, width, 3]."""
    if pixels.ndim == 4:
        at, times = moment or (0, 1)
        pixels = pixels[int((at + 0.5) * len(pixels) / times)]
    return np.broadcast_to(pixels, (*pixels.shape[:2], 3))


def _texts(examples: Sequence[Mapping[str, Any]], path: Path) -> bool:
    """Tokens on red (positive scores) and blue (negative); False for scripts that the font lacks."""
    if scripts.of(token for each in examples for token in each["tokens"]) != "latin":
        return False
    font = ImageFont.load_default(size=14)
    lines: list[list[tuple[str, float]]] = []
    for each in examples:
        for method, scores in each["maps"].items():
            largest = max(map(abs, scores)) or 1.0
            words = [(token or "_", score / largest) for token, score in zip(each["tokens"], scores, strict=True)]
            lines += _wrapped([(f"{each['index']}, {method}:", 0.0), *words], font)
        lines.append([])
    canvas = Image.new("RGB", (_WIDTH, _LINE * len(lines) + 2 * _MARGIN), "white")
    draw = ImageDraw.Draw(canvas)
    for number, line in enumerate(lines):
        left, top = _MARGIN, _MARGIN + number * _LINE
        for word, score in line:
            right, light = left + font.getlength(word), round(255 - 165 * min(abs(score), 1.0))  # readable
            colour = (255, light, light) if score > 0 else (light, light, 255)
            draw.rectangle((left - 1, top, right + 1, top + _LINE - 4), fill=colour)
            draw.text((left, top), word, fill="black", font=font)
            left = right + 6
    canvas.save(path)
    return True


def _wrapped(words: Sequence[tuple[str, float]], font: Any) -> list[list[tuple[str, float]]]:
    lines, left = [[]], 0.0
    for word in words:
        width = font.getlength(word[0]) + 6
        if lines[-1] and left + width > _WIDTH - 2 * _MARGIN:
            lines, left = [*lines, []], 0.0
        lines[-1].append(word)
        left += width
    return lines
