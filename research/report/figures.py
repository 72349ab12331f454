"""Shared code of the plots of a run."""

import io
from typing import Any

from research.report import records
from research.train import rundir


def predictions(workdir: Any) -> tuple[rundir.AnyPath, list[dict]]:
    """`predictions.jsonl` of a run and its lines; no lines if there is none."""
    path = rundir.RunDirectory(workdir).root / "predictions.jsonl"
    return path, records.read_lines(path) if path.exists() else []


def save(figure: Any, path: rundir.AnyPath) -> rundir.AnyPath:
    """Writes a matplotlib figure as PNG, to a bucket too; returns `path`."""
    content = io.BytesIO()
    figure.savefig(content, format="png")
    path.write_bytes(content.getvalue())
    return path


def tidy(axes: Any, title: str) -> None:
    """Styles axes: a title at the left, no frame, a faint grid, a plain legend."""
    axes.set_title(title, loc="left", fontsize=10, fontweight="bold", color="#333333")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8, frameon=False)
