"""`confusion.png` of a run: which classes are taken for which, from its predictions.jsonl."""

import io
import os
from pathlib import Path

import numpy as np

from research.report import records
from research.train import rundir

_WRITTEN = 20  # classes at most whose counts are written into the picture


def draw(workdir: str | os.PathLike) -> Path:
    """Draws `confusion.png` of a run whose predictions have a `class` and what was `predicted`; returns its path.

    Raises ValueError where they have not.
    """
    from matplotlib.figure import Figure  # here, because it costs more than the rest of the report

    folder = rundir.Folder(workdir)
    predictions = folder.root / "predictions.jsonl"
    lines = [line for line in (records.read_lines(predictions) if predictions.exists() else []) if "predicted" in line]
    if not lines:
        raise ValueError(f"{predictions} holds no classes; finish a run of this experiment")
    names, counts = matrix(lines)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    size = 2.4 + 0.45 * min(len(names), 40)
    figure = Figure(figsize=(size + 0.8, size), dpi=120, layout="constrained")
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set(xlabel="predicted", ylabel="class")
    ticks = range(len(names))
    axes.set_xticks(ticks, names, rotation=90, fontsize=8)
    axes.set_yticks(ticks, names, fontsize=8)
    for row, column in np.ndindex(counts.shape) if len(names) <= _WRITTEN else ():
        colour = "white" if shares[row, column] > 0.5 else "#333333"
        axes.text(column, row, str(counts[row, column]), ha="center", va="center", fontsize=8, color=colour)
    axes.set_title("test split", loc="left", fontsize=10, fontweight="bold", color="#333333")
    content = io.BytesIO()
    figure.savefig(content, format="png")
    path = folder.root / "confusion.png"
    path.write_bytes(content.getvalue())
    return path


def matrix(lines: list[dict]) -> tuple[list[str], np.ndarray]:
    """The names of the classes, sorted, and how often each (row) is predicted as each (column)."""
    names = sorted({line[key] for line in lines for key in ("class", "predicted")})
    counts = np.zeros((len(names), len(names)), int)
    for line in lines:
        counts[names.index(line["class"]), names.index(line["predicted"])] += 1
    return names, counts
