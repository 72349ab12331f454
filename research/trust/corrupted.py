"""Scores under corruptions of the inputs: images and clips, sounds, and texts."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from research.data.sound.speech import Speech
from research.data.text import templates
from research.data.text.dataset import Text
from research.data.text.spans import Spans
from research.measure import progress
from research.metrics import metric
from research.trust import collecting, corruptions, scoring, sounds, texts
from research.trust.collecting import Batch, Collected

QUESTION = "question"  # a field of this name is the only one that is corrupted

Make = Callable[[str, int], Iterator[Batch]]  # the corrupted batches of a kind and a severity; "" for none


@dataclasses.dataclass(frozen=True)
class Corruptible:
    """Test examples that can be corrupted: the `kinds` by which they can be, and their batches."""

    kinds: tuple[str, ...]
    indices: np.ndarray
    batches: Make


def of(task: Any, data: Any, examples: int, rows: int) -> Corruptible | None:
    """`examples` random test examples, drawn with seed 0, of batches of `rows`; None for other kinds of data.

    Of faces all are taken, since pairs of them are scored.
    """
    count = data.counts["test"]
    indices = np.arange(count)
    if "person" not in data.reference("test", 0):
        indices = np.sort(np.random.default_rng(0).permutation(count)[:examples])
    if isinstance(data, Speech):
        return Corruptible(tuple(sounds.KINDS), indices, _sounds(data, indices, rows))
    if isinstance(data, Text | Spans):
        return Corruptible(tuple(texts.KINDS), indices, _texts(data, indices, rows))
    if "image" in task.example(1):
        return Corruptible(tuple(corruptions.KINDS), indices, _images(data, indices, rows))
    return None


def measure(
    task: Any, data: Any, predict: Any, given: Corruptible, kinds: Sequence[str], name: str, clean: Collected
) -> dict[str, Any]:
    """The score `name` of the examples for each kind and severity, and `clean`, that without corruption.

    Returns:
        `metric`, `examples`, `clean`, `kinds` (scores by severity) and `mean_error`, the mean of `error`.
    """
    wanted, first = set(given.indices.tolist()), int(given.indices[0])  # lines of faces have no index; all are wanted

    def score(kind: str, severity: int) -> float:
        batches = given.batches(kind, severity)
        found = collecting.collect(task, data, "test", predict, batches, clean.outputs)
        return scoring.value(name, [line for line in found.lines if line.get("index", first) in wanted])

    without, found = score("", 0), {}
    for kind in progress.over(kinds, "corruptions", "kinds"):
        found[kind] = [score(kind, severity) for severity in corruptions.SEVERITIES]
    errors = [error(name, value) for values in found.values() for value in values]
    return {
        "metric": name,
        "examples": len(given.indices),
        "clean": without,
        "kinds": found,
        "mean_error": float(np.mean(errors)),
    }


def error(name: str, value: float) -> float:
    """A score as an error, a fraction: an error rate itself, and 1 minus any other score."""
    found = metric.find(name)
    share = value / 100 if found.unit == "percent" else value
    return share if found.mode == "min" else 1 - share


def _images(data: Any, indices: np.ndarray, rows: int) -> Make:
    """Of images uint8 [batch, height, width, channels], and of clips, whose frames are corrupted one by one."""

    def batches(kind: str, severity: int) -> Iterator[Batch]:
        for batch in data.eval_batches("test", rows):
            chosen = np.isin(batch["index"], indices)
            if not chosen.any():
                continue
            batch = {name: array[chosen] for name, array in batch.items()}
            yield {**batch, "image": _corrupted(batch["image"], kind, severity, batch["index"])}

    return batches


def _corrupted(images: np.ndarray, kind: str, severity: int, index: np.ndarray) -> np.ndarray:
    if not kind:
        return images
    frames = images.shape[1] if images.ndim == 5 else 1
    seeds = (index[:, None].astype(np.int64) * frames + np.arange(frames)).ravel()
    flat = images.reshape(-1, *images.shape[-3:])
    return corruptions.corrupt(flat, kind, severity, seeds).reshape(images.shape)


def _sounds(data: Speech, indices: np.ndarray, rows: int) -> Make:
    source, rate = data.source("test"), data.eval_transform.mel.rate
    by_length = indices[np.argsort([len(source[int(index)][0]) for index in indices], kind="stable")]

    def batches(kind: str, severity: int) -> Iterator[Batch]:
        for begin in range(0, len(by_length), rows):
            chosen = by_length[begin : begin + rows]
            samples = [source[int(index)][0] for index in chosen]
            if kind:
                pairs = zip(samples, chosen.tolist(), strict=True)
                samples = [sounds.corrupt(each, rate, kind, severity, index) for each, index in pairs]
            yield {**data.arrays(samples), "index": chosen.astype(np.int32)}

    return batches


def _texts(data: Text | Spans, indices: np.ndarray, rows: int) -> Make:
    # Errors may make a text longer than the rows.
    data = dataclasses.replace(data, spec=dataclasses.replace(data.spec, truncate=True))
    names, changed = data.prepared.template.source_fields, fields_changed(data.prepared.template)

    def text(index: int, kind: str, severity: int) -> str:
        fields = data.prepared.fields("test", index)
        parts = []
        for number, name in enumerate(names):
            part = str(fields[name]) if len(names) == 1 else " ".join(str(fields[name]).split())
            if kind and name in changed:
                part = texts.corrupt(part, kind, severity, len(names) * index + number)
            parts.append(part)
        return "\t".join(parts)

    def batches(kind: str, severity: int) -> Iterator[Batch]:
        for begin in range(0, len(indices), rows):
            chosen = indices[begin : begin + rows]
            batch = data.encode([text(int(index), kind, severity) for index in chosen])
            own = chosen[batch["index"]] if isinstance(data, Spans) else chosen
            yield {**batch, "index": own.astype(np.int32)}

    return batches


def fields_changed(template: templates.Template) -> tuple[str, ...]:
    """The fields of a source that are corrupted: all, but of a question and its context only the question's.

    The answer may be a span of the context, which therefore stays.
    """
    names, (question, tab, context) = template.source_fields, template.source.partition("\t")
    if tab:
        of_part = lambda part: dataclasses.replace(template, source=part).source_fields
        return tuple(name for name in of_part(question) if name not in of_part(context))
    return (QUESTION,) if QUESTION in names and len(names) > 1 else names
