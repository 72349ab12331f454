"""Confusion matrices of predicted classes, and their figure."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

OTHER = "(other)"
_MAX_TEXTS = 20  # distinct references that can be names of classes
_REPEATED = 5  # least examples of such a name, on average
_MAX_ANNOTATED = 20  # classes up to which counts are written into the cells
_MAX_COUNT = 10_000  # larger counts are written as shares of their class


def matrix(lines: Sequence[Mapping[str, Any]]) -> tuple[list[str], np.ndarray]:
    """The names of the classes, and the counts of each (row) predicted as each (column).

    A line has a `class` (or `target`) and its `predicted` class; or the matrix `confusion` of the pixels of an image
    and its `classes`; or a `prediction` and `references` that are names of classes: one for each example, few, and
    often repeated. Texts that are none of them are OTHER. Without classes both are empty.
    """
    images = [line for line in lines if "confusion" in line]
    if images:
        return images[0]["classes"], np.sum([line["confusion"] for line in images], axis=0)
    pairs = _texts(lines) or [
        (line["class"] if "class" in line else line["target"], line["predicted"])
        for line in lines
        if "predicted" in line
    ]
    names = sorted({name for pair in pairs for name in pair}, key=lambda name: (name == OTHER, name))
    counts = np.zeros((len(names), len(names)), int)
    for true, predicted in pairs:
        counts[names.index(true), names.index(predicted)] += 1
    return names, counts


def _texts(lines: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """The class and the predicted class of lines whose texts are names of classes; empty for other lines."""
    if not lines or not {"prediction", "references"} <= lines[0].keys() or "task" in lines[0]:
        return []
    if any(len(line["references"]) != 1 for line in lines):
        return []
    names = {line["references"][0] for line in lines}
    if len(names) > _MAX_TEXTS or len(names) * _REPEATED > len(lines):
        return []
    text = lambda line: line["prediction"] if line["prediction"] in names else OTHER
    return [(line["references"][0], text(line)) for line in lines]


def figure(names: Sequence[str], counts: Int[np.ndarray, "classes classes"], title: str) -> Any:
    """The matplotlib figure of a confusion matrix; colours are shares of the class (row)."""
    from matplotlib.figure import Figure  # slow to import

    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    size = 2.4 + 0.45 * min(len(names), 40)
    drawn = Figure(figsize=(size + 0.8, size), dpi=120, layout="constrained")
    axes = drawn.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set(xlabel="predicted", ylabel="class")
    ticks = range(len(names))
    axes.set_xticks(ticks, names, rotation=90, fontsize=8, parse_math=False)  # names may have dollar signs
    axes.set_yticks(ticks, names, fontsize=8, parse_math=False)
    for row, column in np.ndindex(counts.shape) if len(names) <= _MAX_ANNOTATED else ():
        colour = "white" if shares[row, column] > 0.5 else "#333333"
        text = str(counts[row, column]) if counts.max() < _MAX_COUNT else f"{shares[row, column]:.0%}"
        axes.text(column, row, text, ha="center", va="center", fontsize=8, color=colour)
    axes.set_title(title, loc="left", fontsize=10, fontweight="bold", color="#333333")
    return drawn
