"""Predicts a split with a task, and the lines of its scorer, in which each example is described."""

import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from research.measure import progress
from research.report import intervals, records

Batch = Mapping[str, np.ndarray]


class Collected(NamedTuple):
    """The predictions for examples.

    lines           as in `predictions.jsonl`, see the scorer of each task
    metrics         the scores that can be computed from the lines of any examples, see report/intervals.py
    probabilities   of classes, by index; empty for other tasks
    confidence      the probability of each predicted text, by index; empty for other tasks
    outputs         embeddings of batches, with their index, for tasks that compare examples; else empty
    """

    lines: list[dict[str, Any]]
    metrics: tuple[str, ...]
    probabilities: dict[int, np.ndarray]
    confidence: dict[int, float]
    outputs: list[dict[str, np.ndarray]]


def batches(data: Any, split: str, rows: int) -> Iterator[Batch]:
    """The batches of a split, with progress."""
    packed = hasattr(data, "vocabulary")  # texts are sorted by length into batches whose number is not known before
    total = None if packed else -(-data.counts[split] // rows)
    return iter(progress.over(data.eval_batches(split, rows), f"predicting {split}", "batches", total=total))


def collect(task: Any, data: Any, split: str, predict: Any, given: Iterable[Batch], before: Any = ()) -> Collected:
    """The predictions for the `given` batches of a split, padding left out.

    `before` are outputs of examples with which those of the batches are compared, see `Collected.outputs`.

    Raises ValueError for a task whose predictions cannot be scored.
    """
    scorer = task.scorer(data, split)
    if scorer is None:
        raise ValueError("a trust report needs predictions that can be scored; set config.task.metrics or task.classes")
    for outputs in before:
        scorer.add(outputs)
    probabilities, embeddings = {}, []
    for batch in given:
        outputs = predict(batch)
        outputs = {name: value[np.asarray(outputs["index"]) >= 0] for name, value in outputs.items()}
        scorer.add(outputs)
        if "probabilities" in outputs:
            probabilities |= dict(zip(map(int, outputs["index"]), outputs["probabilities"], strict=True))
        if "embedding" in outputs:
            embeddings.append({name: outputs[name] for name in ("index", "weight", "embedding")})
    names = scorer.result()
    with tempfile.TemporaryDirectory() as folder:
        scorer.save(Path(folder) / "predictions.jsonl")
        lines = records.read_lines(Path(folder) / "predictions.jsonl")
    for index, line in zip(sorted(probabilities), lines, strict=False):
        line["index"] = index
    metrics = _metrics(names, lines)
    if not metrics:
        known = ", ".join(intervals.METRICS)
        raise ValueError(f"a trust report needs one of the scores {known}; this run has {', '.join(names) or 'none'}")
    confidence = {line["index"]: line["probability"] for line in lines if "probability" in line}  # of texts
    return Collected(lines, metrics, probabilities, confidence, embeddings)


def _metrics(names: Collection[str], lines: list[dict[str, Any]]) -> tuple[str, ...]:
    """Those of a scorer that are also computed from lines, and those that a task sums without a scorer."""
    if "person" in lines[0] or "path1" in lines[0]:
        return tuple(name for name in ("identification", "pair_accuracy") if name in names)
    summed = ("accuracy",) if "predicted" in lines[0] else ("miou", "pixel_accuracy") if "confusion" in lines[0] else ()
    return (*summed, *(name for name in names if name in intervals.METRICS))
