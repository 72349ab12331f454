"""A membership audit as a page: `report.md` and `report.html`, with the ROC curves beside them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from research import files
from research.report import figures
from research.trust.membership import FALSE_POSITIVES
from research.trust.page import Section, as_html, markdown

ATTACKS = {
    "run_loss": "the run: loss threshold (Yeom et al., 2018)",
    "run_lira_offline": "the run: LiRA, offline (Carlini et al., 2022)",
    "shadow_loss": "shadow runs: loss threshold",
    "shadow_lira_offline": "shadow runs: LiRA, offline",
    "shadow_lira_online": "shadow runs: LiRA, online",
}
_ROC = "roc.png"


def write(found: Mapping[str, Any], curves: Mapping[str, np.ndarray], folder: Path, title: str) -> Path:
    """Writes the pages and the figure of a report (see `audit.content`); returns the path of the Markdown page."""
    folder.mkdir(parents=True, exist_ok=True)
    _draw(found, curves, folder / _ROC)
    sections = [_attacks(found), _reading(found)]
    page = folder / "report.md"
    files.write_atomically(page, markdown(title, sections))
    files.write_atomically(folder / "report.html", as_html(title, sections, folder))
    return page


def _attacks(found: Mapping[str, Any]) -> Section:
    table = [
        [
            "attack",
            f"TPR at {FALSE_POSITIVES:.0%} FPR",
            "95 % interval",
            "AUC",
            "balanced accuracy",
            "members",
            "others",
        ]
    ]
    for name, each in found["attacks"].items():
        interval = f"{each['low']:.4f} to {each['high']:.4f}"
        scores = [f"{each[key]:.4f}" for key in ("auc", "balanced_accuracy")]
        counts = [f"{each[key]:,}" for key in ("members", "others")]
        table.append([ATTACKS[name], f"{each['tpr']:.4f}", interval, *scores, *counts])
    losses, counts = found["mean_loss"], found["counts"]
    text = (
        "How often an attacker tells training examples (members) from others: guessing gives a true positive rate "
        f"(TPR) of {FALSE_POSITIVES}, an AUC and a balanced accuracy of 0.5. The mean loss of the run is "
        f"{losses['train']:.4f} on {counts['train']:,} training examples and {losses['test']:.4f} on "
        f"{counts['test']:,} test examples."
    )
    if found["shadows"]:
        text += (
            f" {found['shadows']} shadow runs were trained on halves of the training examples with the same settings; "
            "attacks on them tell the two halves apart, which differ in nothing else."
        )
    return Section("Attacks", text, table, _ROC)


def _reading(found: Mapping[str, Any]) -> Section:
    text = (
        "The audit is a lower bound: stronger attacks or more shadow runs may find more, and the most exposed examples "
        "may leak more than the average. Attacks on the run compare its training with its test examples, and so also "
        "see other differences between these splits. The balanced accuracy is that of the best threshold on the same "
        "examples."
    )
    if found["bound"] is not None:
        text = (
            f"DP-SGD guarantees epsilon {found['epsilon']:.2f} at delta {found['delta']:g} for the run, by which no "
            f"attack has a TPR above {found['bound']:.4f} at {FALSE_POSITIVES:.0%} FPR. The shadow runs have half of "
            "the examples, each of which is drawn twice as often, so that their epsilon is larger. " + text
        )
    return Section("Reading", text)


def _draw(found: Mapping[str, Any], curves: Mapping[str, np.ndarray], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5, 4.5), dpi=120, layout="constrained")
    axes = figure.subplots()
    least = 1 / max(each["others"] for each in found["attacks"].values())
    axes.plot([least, 1], [least, 1], color="#999999", linewidth=1, linestyle="--", label="guessing")
    for name, (false, true) in curves.items():
        seen = false > 0
        axes.plot(false[seen], np.maximum(true[seen], least), linewidth=1.3, label=ATTACKS[name].split(" (")[0])
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="false positive rate",
        ylabel="true positive rate",
        xlim=(least, 1),
        ylim=(least, 1.05),
    )
    figures.tidy(axes, "membership inference")
    axes.legend(fontsize=7, frameon=False, loc="lower right")
    figures.save(figure, path)
