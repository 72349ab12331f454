"""Plots of recorded runs, stored as small files: `experiments/<experiment>/plots/<config>_<variant>/NAME.png`.

A run that is recorded later, also with another seed, replaces an earlier one. The plots of the last row of those with
most plots are shown on the page of its experiment, and one plot of each headline result in the montage of the root
README.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from research.report import confusion, errors, precision_recall, records, reliability, roc
from research.train.rundir import AnyPath

_COLOURS = 48  # size of the palette
_WIDTH = 1000  # px at most
TITLES = {
    "curves": "training curves",
    "confusion": "confusion matrix",
    "precision_recall": "precision and recall",
    "roc": "ROC curve",
    "errors": "errors",
    "calibration": "calibration",
}
_DRAWN = {  # each returns None if the predictions of a run do not have what it needs
    "confusion": confusion.draw,
    "precision_recall": precision_recall.draw,
    "roc": roc.draw,
    "errors": errors.draw,
    "calibration": reliability.draw,
}
_ONE = tuple(_DRAWN)  # for the montage, in the order of preference
MONTAGE = Path("experiments/montage.png")
_COLUMNS, _TILE, _CAPTION = 3, (320, 240), 22  # columns, px, px


def draw(workdir: str | os.PathLike) -> list[AnyPath]:
    """Draws the figures that the predictions of a run allow, those of _DRAWN; returns their paths.

    What cannot be drawn is said on stderr: a figure must not hide the result of a run that has ended well.
    """
    drawn = []
    for stem, draw_one in _DRAWN.items():
        try:
            drawn += filter(None, [draw_one(workdir)])
        except Exception as error:  # noqa: BLE001  whatever is in the predictions
            reason = f"{type(error).__name__}: {error}"
            print(f"warning: the figure of {TITLES[stem]} was not drawn: {reason}", file=sys.stderr)
    return drawn


def keep(workdir: Path, row: Mapping[str, Any], root: Path) -> list[Path]:
    """Copies the plots of a run beside its results; returns their sorted paths."""
    from PIL import Image

    folder = records.results_path(row["experiment"], root).with_name("plots")
    folder /= folder_name(row)
    kept = []
    draw(workdir)  # runs of earlier commits have none
    for plot in sorted(Path(workdir).glob("*.png")):
        folder.mkdir(parents=True, exist_ok=True)
        with Image.open(plot) as image:
            image = image.convert("RGB")
        if image.width > _WIDTH:
            image = image.resize((_WIDTH, round(image.height * _WIDTH / image.width)), Image.Resampling.LANCZOS)
        kept.append(folder / plot.name)
        image.quantize(_COLOURS, dither=Image.Dither.NONE).save(kept[-1], optimize=True)
    return kept


def folder_name(row: Mapping[str, Any]) -> str:
    """The name of the folder with the plots of a row, such as `digits_vit_cpu`."""
    return f"{Path(row['file']).stem}_{row['variant']}"


def newest(folder: Path, rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown with the plots of a row, side by side; empty if no row has any.

    Of the rows with most of the kinds in TITLES, such as curves and calibration, it is the last one.
    """
    names = dict.fromkeys(folder_name(row) for row in reversed(rows))
    plotted = {name: {plot.stem: plot for plot in folder.glob(f"plots/{name}/*.png")} for name in names}
    kinds = {name: [stem for stem in TITLES if stem in found] for name, found in plotted.items()}
    name = max(kinds, key=lambda name: len(kinds[name]), default="")
    if not kinds.get(name):
        return ""
    label = ":".join(name.rsplit("_", 1))
    images = [f"![{TITLES[stem]} of {name}]({plotted[name][stem].relative_to(folder)})" for stem in kinds[name]]
    titles = [f"{TITLES[stem]} of `{label}`" for stem in kinds[name]]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (titles, ["---"] * len(titles), images))


def section(folder: Path, shown: str = "") -> str:
    """Markdown with all plots of an experiment's folder but those `shown` in other text; empty if there are none."""
    runs: dict[str, list[Path]] = {}
    for plot in sorted(folder.glob("plots/*/*.png")):
        if f"({plot.relative_to(folder)})" in shown:
            continue
        runs.setdefault(plot.parent.name, []).append(plot)
    parts = []
    for name, plots in runs.items():
        images = "\n".join(f"![{plot.stem} of {name}]({plot.relative_to(folder)})" for plot in plots)
        parts.append(f"**{name}**\n\n{images}")
    return "\n\n".join(parts)


def montage(root: Path, configs: Sequence[str]) -> Path | None:
    """Draws one plot of each of `EXPERIMENT/CONFIG:VARIANT` that has some, in rows of three, to MONTAGE.

    Returns its path; None if there is no plot.
    """
    from PIL import Image, ImageDraw, ImageFont

    chosen = []
    for config in configs:
        experiment, _, label = config.partition("/")
        folder = root / "experiments" / experiment / "plots" / label.replace(":", "_")
        chosen += [(label, folder / f"{stem}.png") for stem in _ONE if (folder / f"{stem}.png").is_file()][:1]
    if not chosen:
        return None
    width, height = _TILE[0], _TILE[1] + _CAPTION
    canvas = Image.new("RGB", (_COLUMNS * width, -(-len(chosen) // _COLUMNS) * height), "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=13)
    for index, (label, path) in enumerate(chosen):
        left, top = index % _COLUMNS * width, index // _COLUMNS * height
        with Image.open(path) as plot:
            tile = plot.convert("RGB")
        tile.thumbnail(_TILE, Image.Resampling.LANCZOS)
        draw.text((left + 8, top + 4), label, fill="#333333", font=font)
        canvas.paste(tile, (left + (width - tile.width) // 2, top + _CAPTION))
    target = root / MONTAGE
    canvas.quantize(_COLOURS, dither=Image.Dither.NONE).save(target, optimize=True)
    return target
