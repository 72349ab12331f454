"""`confusion.png`: the confusion matrix of a run, from its predictions.jsonl."""

import os

from research.metrics.confusion import figure, matrix
from research.report import figures
from research.train.rundir import AnyPath

__all__ = ["draw", "matrix"]


def draw(workdir: str | os.PathLike) -> AnyPath:
    """Draws `confusion.png` of a run from its predicted classes; returns its path.

    Raises ValueError if the predictions have no classes; see `matrix`.
    """
    path, lines = figures.predictions(workdir)
    names, counts = matrix(lines)
    if not names:
        raise ValueError(f"{path} has no predicted classes; give a run of a classification experiment")
    return figures.save(figure(names, counts, "test split"), path.with_name("confusion.png"))
