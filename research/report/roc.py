"""`roc.png`: the ROC curve of face verification, from the pairs in predictions.jsonl."""

import os

import numpy as np

from research.metrics import face_scores
from research.report import figures, formats
from research.train.rundir import AnyPath

_SMALLEST = 1e-4  # smallest false accept rate shown


def draw(workdir: str | os.PathLike) -> AnyPath | None:
    """Draws `roc.png` of a run; returns its path, or None if its predictions hold no pairs."""
    from matplotlib.figure import Figure  # slow to import

    path, lines = figures.predictions(workdir)
    pairs = [(line["similarity"], line["same"]) for line in lines if "same" in line]
    if not pairs:
        return None
    similarities, same = np.array(pairs).T
    curve = face_scores.roc(similarities, same)

    figure = Figure(figsize=(9.6, 4.2), dpi=120, layout="constrained")
    left, right = figure.subplots(1, 2)
    rates = np.maximum(curve.false_accepts, _SMALLEST)
    label = f"AUC {formats.number(curve.auc)}, EER {formats.number(curve.eer)}"
    left.step(rates, curve.true_accepts, where="post", color="#3b6fb6", linewidth=1.6, label=label)
    chance = np.geomspace(_SMALLEST, 1)
    left.plot(chance, chance, "--", color="#999999", linewidth=1, label="chance")
    left.set(xscale="log", xlim=(_SMALLEST, 1), ylim=(0, 1.02), xlabel="false accepts", ylabel="true accepts")
    bins = np.linspace(similarities.min(), similarities.max(), 41)
    for kind, colour, name in ((1, "#3a8f5c", "one person"), (0, "#e07b39", "two people")):
        right.hist(similarities[same == kind], bins, density=True, color=colour, alpha=0.6, label=name)
    right.set(xlabel="similarity", ylabel="pairs", yticks=[])
    for axes, title in ((left, "ROC of the test pairs"), (right, "similarities")):
        figures.tidy(axes, title)
    return figures.save(figure, path.with_name("roc.png"))
