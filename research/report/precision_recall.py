"""`precision_recall.png`: precision-recall curves of a detector, from its predictions.jsonl."""

import os

import numpy as np

from research.metrics import box_scores
from research.report import figures, formats
from research.train.rundir import AnyPath


def draw(workdir: str | os.PathLike) -> AnyPath | None:
    """Draws `precision_recall.png` of a run; returns its path, or None if its predictions hold no boxes and objects."""
    from matplotlib.figure import Figure  # slow to import

    path, lines = figures.predictions(workdir)
    if not any("objects" in line for line in lines):
        return None
    figure = Figure(figsize=(5.4, 4.2), dpi=120, layout="constrained")
    axes = figure.subplots()
    for name, precision in box_scores.precision_at_half(*box_scores.from_lines(lines)).items():
        label = f"{name}, AP {formats.number(float(precision.mean()))}"
        axes.plot(np.linspace(0, 1, len(precision)), precision, linewidth=1.6, label=label)
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="recall", ylabel="precision")
    figures.tidy(axes, "test split, IoU of half or more")
    return figures.save(figure, path.with_name("precision_recall.png"))
