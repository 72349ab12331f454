"""Plots of recorded runs, kept small beside the rows: `experiments/<experiment>/plots/<config>_<variant>/NAME.png`.

A run that is recorded later, also of another seed, replaces an earlier one.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from research.report import records

_COLOURS = 48  # of a plot: lines, bars and letters
_WIDTH = 1000  # px at most


def keep(workdir: Path, row: Mapping[str, Any], root: Path) -> list[Path]:
    """Copies the plots of a run beside its results; returns their sorted paths."""
    from PIL import Image

    folder = records.results_path(row["experiment"], root).with_name("plots")
    folder /= f"{Path(row['file']).stem}_{row['variant']}"
    kept = []
    for plot in sorted(Path(workdir).glob("*.png")):
        folder.mkdir(parents=True, exist_ok=True)
        with Image.open(plot) as image:
            image = image.convert("RGB")
        if image.width > _WIDTH:
            image = image.resize((_WIDTH, round(image.height * _WIDTH / image.width)), Image.Resampling.LANCZOS)
        kept.append(folder / plot.name)
        image.quantize(_COLOURS, dither=Image.Dither.NONE).save(kept[-1], optimize=True)
    return kept


def section(folder: Path) -> str:
    """Markdown that shows the plots of an experiment's folder; empty if there are none."""
    runs: dict[str, list[Path]] = {}
    for plot in sorted(folder.glob("plots/*/*.png")):
        runs.setdefault(plot.parent.name, []).append(plot)
    parts = []
    for name, plots in runs.items():
        images = "\n".join(f"![{plot.stem} of {name}]({plot.relative_to(folder)})" for plot in plots)
        parts.append(f"**{name}**\n\n{images}")
    return "\n\n".join(parts)
