"""`confusion.png`: the confusion matrix of a run, from its predictions.jsonl."""

import os

from research.metrics.confusion import figure, matrix
from research.report import figures
from research.train.rundir import AnyPath

__all__ = ["draw", "matrix"]


def draw(workdir: str | os.PathLike) -> AnyPath | None:
    """Draws `confusion.png` of a run; returns its path, or None if its predictions have no classes, see `matrix`."""
    path, lines = figures.predictions(workdir)
    names, counts = matrix(lines)
    if not names:
        return None
    return figures.save(figure(names, counts, "test split"), path.with_name("confusion.png"))
