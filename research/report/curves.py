"""`curves.png` of a run: a panel for each kind of metric, and a breakdown of the wall time."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from research.measure import timeline
from research.report import formats, records
from research.train import rundir

_COLOURS = {"train": "#3b6fb6", "validation": "#e07b39", "test": "#3a8f5c"}
_TIME_COLOURS = {
    "step": "#3a8f5c",
    "compile": "#8a6bbf",
    "data": "#e0a839",
    "eval": "#3b6fb6",
    "save": "#5fb0b7",
    "start": "#c7c7c7",
}
_COLUMNS = 3
_SMOOTH_FROM = 100  # points from which a curve is smoothed

Series = Mapping[str, tuple[Sequence[int], Sequence[float]]]  # split -> (steps, values)


def draw(workdir: str | os.PathLike) -> Path:
    """Draws `curves.png` of a run, finished or not, from metrics.jsonl and timeline.jsonl; returns its path.

    Raises ValueError if nothing has been logged yet.
    """
    from matplotlib.figure import Figure  # slow to import

    workdir = Path(workdir)
    panels = _panels(rundir.read_metrics(workdir / "metrics.jsonl"))
    if not panels:
        raise ValueError(f"{workdir} holds no metrics yet; let the run reach train.log_every steps")
    seconds = timeline.seconds_by_kind(timeline.read(workdir / "timeline.jsonl"))
    columns = min(_COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(max(4.6 * columns, 6.0), 3.1 * rows + 0.9), dpi=120, layout="constrained")
    figure.suptitle(_title(workdir), fontsize=11, color="#333333", x=0.01, ha="left")
    grid = figure.add_gridspec(rows + 1, columns, height_ratios=[1.0] * rows + [0.12])
    for index, (family, series) in enumerate(panels.items()):
        _draw_panel(figure.add_subplot(grid[divmod(index, columns)]), family, series)
    if seconds:
        _draw_time(figure.add_subplot(grid[rows, :]), seconds)
    path = workdir / "curves.png"
    figure.savefig(path)
    return path


def _panels(lines: Sequence[Mapping]) -> dict[str, Series]:
    """Series by metric family (`loss`, `accuracy`): losses, then evaluated metrics, then the rest.

    Families of single points (final scores by class or size) get no panel.
    """
    families: dict[str, dict[str, tuple[list, list]]] = {}
    for line in lines:
        split, _, family = line["name"].partition("/")
        if split == "speed" and family not in ("steps_per_s", "mfu", "data_wait"):
            continue  # a duplicate in other units
        if line["value"] is None:
            continue  # not finite
        steps, values = families.setdefault(family, {}).setdefault(split, ([], []))
        steps.append(line["step"])
        values.append(line["value"])
    longest = {family: max(len(steps) for steps, _ in series.values()) for family, series in families.items()}
    kept = [family for family in families if longest[family] > 1 or family == "loss"] or list(families)
    kept.sort(key=lambda family: (family != "loss", families[family].keys() == {"train"}))
    return {family: families[family] for family in kept}


def _title(workdir: Path) -> str:
    source = records.read_source(workdir)
    label = f"{source['experiment']} · {Path(source['file']).stem}:{source['variant']}"
    return " ".join([label, *source["overrides"]])


def _draw_panel(axes, family: str, series: Series) -> None:
    for split, (steps, values) in series.items():
        colour = _COLOURS.get(split, "#666666")
        label = f"{split}  {formats.number(float(values[-1]))}"
        if len(steps) == 1:
            axes.plot(steps, values, "o", color=colour, markersize=6, label=label)
        elif len(steps) < _SMOOTH_FROM:
            axes.plot(steps, values, ".-", color=colour, linewidth=1.6, markersize=4, label=label)
        else:
            axes.plot(steps, values, "-", color=colour, linewidth=0.8, alpha=0.3)
            axes.plot(steps, _smooth(values), "-", color=colour, linewidth=1.6, label=label)
    axes.set_title(family.replace("_", " "), loc="left", fontsize=10, fontweight="bold", color="#333333")
    axes.set_xlabel("step", fontsize=8, color="#666666")
    axes.tick_params(labelsize=8, colors="#666666")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False)


def _smooth(values: Sequence[float]) -> np.ndarray:
    """The centred moving average over a fiftieth of the curve."""
    window = np.ones(len(values) // 50 // 2 * 2 + 1)
    return np.convolve(values, window, "same") / np.convolve(np.ones(len(values)), window, "same")


def _draw_time(axes, seconds: Mapping[str, float]) -> None:
    """Draws a stacked bar: the share of each kind of interval in the wall time of all starts of the run."""
    # Work lost by a kill is included in the steps and evaluations before it, so it has no share of its own.
    work = {kind: spent for kind, spent in seconds.items() if kind != "lost"}
    total, left = sum(work.values()), 0.0
    for kind, spent in work.items():
        share = spent / total
        label = f"{kind} {share:.0%}" if share >= 0.005 else f"{kind} <1%"
        axes.barh(0, share, left=left, color=_TIME_COLOURS.get(kind, "#999999"), label=label)
        left += share
    axes.set(xlim=(0, 1), xticks=[], yticks=[])
    title = f"where {formats.duration(total)} went"
    if seconds.get("lost"):
        title += f" ({formats.duration(seconds['lost'])} of work done twice after restarts)"
    axes.set_title(title, loc="left", fontsize=8, color="#666666")
    axes.spines[:].set_visible(False)
    legend = {"ncols": len(work), "loc": "lower right", "bbox_to_anchor": (1, 1), "borderaxespad": 0}
    axes.legend(fontsize=8, frameon=False, **legend)
