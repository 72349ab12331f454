"""`confusion.png`: the confusion matrix of a run, from its predictions.jsonl."""

import os

import numpy as np

from research.report import figures
from research.train.rundir import AnyPath

_MAX_ANNOTATED = 20  # classes up to which counts are written into the cells
_MAX_COUNT = 10_000  # larger counts are written as shares of their class


def draw(workdir: str | os.PathLike) -> AnyPath:
    """Draws `confusion.png` of a run from its predicted classes; returns its path.

    Raises ValueError if the predictions have no classes; see `matrix`.
    """
    from matplotlib.figure import Figure  # slow to import

    path, lines = figures.predictions(workdir)
    names, counts = matrix(lines)
    if not names:
        raise ValueError(f"{path} holds no classes; finish a run of this experiment")
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    size = 2.4 + 0.45 * min(len(names), 40)
    figure = Figure(figsize=(size + 0.8, size), dpi=120, layout="constrained")
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set(xlabel="predicted", ylabel="class")
    ticks = range(len(names))
    axes.set_xticks(ticks, names, rotation=90, fontsize=8)
    axes.set_yticks(ticks, names, fontsize=8)
    for row, column in np.ndindex(counts.shape) if len(names) <= _MAX_ANNOTATED else ():
        colour = "white" if shares[row, column] > 0.5 else "#333333"
        text = str(counts[row, column]) if counts.max() < _MAX_COUNT else f"{shares[row, column]:.0%}"
        axes.text(column, row, text, ha="center", va="center", fontsize=8, color=colour)
    axes.set_title("test split", loc="left", fontsize=10, fontweight="bold", color="#333333")
    return figures.save(figure, path.with_name("confusion.png"))


def matrix(lines: list[dict]) -> tuple[list[str], np.ndarray]:
    """The names of the classes, and the counts of each (row) predicted as each (column).

    A line has a `class` and its `predicted` class, or the matrix `confusion` of the pixels of an image and its
    `classes`.
    """
    images = [line for line in lines if "confusion" in line]
    if images:
        return images[0]["classes"], np.sum([line["confusion"] for line in images], axis=0)
    lines = [line for line in lines if "predicted" in line]
    names = sorted({line[key] for line in lines for key in ("class", "predicted")})
    counts = np.zeros((len(names), len(names)), int)
    for line in lines:
        counts[names.index(line["class"]), names.index(line["predicted"])] += 1
    return names, counts
