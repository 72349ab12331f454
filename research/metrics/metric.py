"""Name, unit and direction of every metric.

The scores of groups of examples, such as `wer_speaker_theo` or `iou_car`, are declared once, without the group.
"""

import dataclasses
import difflib
from collections.abc import Collection, Iterable
from typing import Literal

Mode = Literal["max", "min"]


@dataclasses.dataclass(frozen=True)
class Metric:
    """A score of a split.

    Attributes:
        name: The name in metrics.jsonl and in the results tables, without the split.
        unit: `fraction` (0 to 1), `percent` (0 to 100), `nats`, `count`, `cosine` or `loss` (no unit).
        mode: Whether the largest ("max") or the smallest ("min") value is the best.
    """

    name: str
    unit: str
    mode: Mode = "max"


def _declare(unit: str, names: str, mode: Mode = "max") -> Iterable[Metric]:
    return (Metric(name, unit, mode) for name in names.split())


METRICS: tuple[Metric, ...] = (
    *_declare("nats", "loss ctc_loss", "min"),
    *_declare("loss", "class_loss box_loss centre_loss dice lovasz perplexity", "min"),
    # Classes of images, clips, pixels and tokens.
    *_declare("fraction", "accuracy accuracy_task accuracy_mean token_accuracy span_accuracy balanced_accuracy recall"),
    *_declare("fraction", "pixel_accuracy miou iou"),
    # Boxes, by pycocotools: average precision, average recall.
    *_declare("fraction", "map map50 map75 map_small map_medium map_large ap50 ar1 ar10 ar100"),
    # Retrieval: recall at k and the mean reciprocal rank.
    *_declare("fraction", "recall_at_1 recall_at_5 recall_at_10 mrr"),
    # Faces: identification, verification at a false accept rate.
    *_declare("fraction", "identification pair_accuracy auc tar tar_at_far"),
    *_declare("fraction", "eer far", "min"),
    Metric("pairs", "count"),
    Metric("threshold", "cosine"),
    # Texts.
    *_declare("percent", "bleu bleu_13a bleu_zh bleu_char chrf exact_match f1"),
    *_declare("percent", "rouge1 rouge2 rougeL rougeLsum"),
    *_declare("percent", "rouge1_multi rouge2_multi rougeL_multi rougeLsum_multi"),
    *_declare("fraction", "bleu1 rouge_l"),
    *_declare("percent", "wer cer wer_speaker", "min"),
    *_declare("count", "substitutions insertions deletions", "min"),
    # Differential privacy.
    Metric("epsilon", "nats", "min"),
    *_declare("fraction", "loss_tpr loss_auc lira_tpr lira_auc", "min"),  # of membership inference
)


def find(name: str, declared: Iterable[Metric] = METRICS) -> Metric:
    """The metric `name`; for the score of a group, the longest declared prefix of `name`.

    Raises ValueError if none is declared.
    """
    by_name = {metric.name: metric for metric in declared}
    base = name
    while base:
        if base in by_name:
            return by_name[base]
        base = base.rpartition("_")[0]
    near = difflib.get_close_matches(name, by_name, 3)
    similar = f"; similar ones: {', '.join(near)}" if near else ""
    raise ValueError(
        f"the metric {name!r} is not declared, so its direction is unknown; declare it in research/metrics/metric.py, "
        f"or give RESULT its direction{similar}"
    )


def mode(name: str) -> Mode:
    """`min` for losses, error rates and error counts, also of groups, else `max`. Raises ValueError as `find`."""
    return find(name).mode


def check(name: str, means: Collection[str], scored: bool) -> None:
    """Raises ValueError for a metric that is not in the `means` of an evaluation, unless it is `scored`."""
    if name not in means and not scored:
        raise ValueError(
            f"config.task.select_by={name!r} is not computed while training; choose from "
            f"{', '.join(sorted(means))}, or set config.train.score=all to score predictions while training"
        )
