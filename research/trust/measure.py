"""The content of a trust report about a trained run, as one dictionary: see `measure`."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from research.metrics import calibration
from research.report import intervals
from research.trust import collecting, copies, corrupted, explaining, groups, scoring
from research.trust.collecting import Collected

BATCH = 200
MISTAKES = 25
_SHOWN = ("index", "path", "path1", "path2", "same", "name", "clip", "person", "found", "similarity")
_RIGHT = {"exact_match": 100, "accuracy": 1, "wer": 0}  # the value of a text that is right
_TEXTS = ("source", "prediction", "references")  # people's words


@dataclasses.dataclass(frozen=True)
class Options:
    """What is reported.

    fields     the fields to group examples by; () for all
    kinds      the corruptions; None for all that the data have
    examples   the number of test examples that are corrupted, drawn with seed 0
    metric     the score of groups and corruptions; "" for `headline` or, if it is of no use, the first that is
    headline   the main metric of the run
    shown      whether texts of examples are shown
    explained  the number of random test examples for which it is shown what the model looks at
    compared   the number of train examples that are searched for near-copies
    rows       the size of batches
    """

    fields: tuple[str, ...] = ()
    kinds: tuple[str, ...] | None = ()
    examples: int = 1000
    metric: str = ""
    headline: str = ""
    shown: bool = True
    explained: int = 0
    compared: int = 0
    rows: int = BATCH


def measure(task: Any, data: Any, predict: Any, options: Options = Options(), variables: Any = None) -> dict[str, Any]:
    """The content of a trust report, ready for JSON.

    Args:
        task: The task of the run, whose scorer describes each example.
        data: The prepared data of the run.
        predict: Arrays of a batch -> outputs, such as `trainer.Predictor`.
        options: What is reported.
        variables: Those of the model, for what it looks at and for near-copies.

    Returns:
        `counts`, `metric`, `groups` (by metric and field), `mistakes`, `corruptions`, `looks`, `copies`; and, of
        classifiers and of texts that are right or wrong, `temperature`, `calibration` (test, uncalibrated and
        temperature-scaled) and `reliability` (bins).

    Raises:
        ValueError: The predictions cannot be scored, or a field, a kind or the metric is unknown.
    """
    given = corrupted.of(task, data, options.examples, options.rows)
    kinds = _kinds(given, options.kinds)
    collect = lambda split: collecting.collect(
        task, data, split, predict, collecting.batches(data, split, options.rows)
    )
    test = collect("test")
    metric = options.metric or (options.headline if options.headline in test.metrics else test.metrics[0])
    scored = scoring.of(data, "test", test, metric)
    found = {
        "counts": {split: data.counts[split] for split in ("validation", "test")},
        "metric": metric,
        "groups": _groups(scored, options.fields),
    }
    if test.probabilities:
        found |= _calibration(data, collect("validation"), test)
        found["mistakes"] = _mistakes(data, test)
    else:
        found["mistakes"] = _worst(scored[0], options.shown)
        if kind := next((name for name in _RIGHT if name in test.metrics and test.confidence), None):
            found |= _calibration_of_answers(kind, collect("validation"), test)
    found["corruptions"] = corrupted.measure(task, data, predict, given, kinds, metric, test) if given and kinds else {}
    return found | _of_model(task, data, variables, options)


def _of_model(task: Any, data: Any, variables: Any, options: Options) -> dict[str, Any]:
    """What the model looks at, and near-copies by its features."""
    found: dict[str, Any] = {"looks": [], "copies": {}}
    has_texts = hasattr(data, "vocabulary")  # which are drawn token by token
    if options.explained and (options.shown or not has_texts):
        found["looks"] = explaining.examples(task, data, variables, options.explained, options.rows)
    if options.compared:
        found["copies"] = copies.find(task, data, variables, options.rows, options.compared, shown=options.shown)
    return found


def _kinds(given: corrupted.Corruptible | None, wanted: Sequence[str] | None) -> tuple[str, ...]:
    """The corruptions that are measured. Raises ValueError for one that the data do not have."""
    known = given.kinds if given else ()
    if wanted is None:
        return known
    for kind in wanted:
        if kind not in known:
            raise ValueError(f"--corruptions: unknown kind {kind!r}; choose from {', '.join(known)}, or none")
    return tuple(wanted)


def _labelled(data: Any, found: Collected) -> tuple[np.ndarray, np.ndarray]:
    """Class probabilities [examples, classes] and labels [examples]."""
    names = list(data.class_names)
    truth = [str(line.get("class", line.get("target"))) for line in found.lines]
    rows = [found.probabilities[line["index"]] for line in found.lines]
    return np.array(rows, np.float64), np.array([names.index(name) for name in truth])


def _calibration(data: Any, validation: Collected, test: Collected) -> dict[str, Any]:
    temperature = calibration.fit_temperature(*_labelled(data, validation))
    probabilities, labels = _labelled(data, test)
    scaled = calibration.scaled(probabilities, temperature)
    right = probabilities.argmax(1) == labels
    return {
        "temperature": temperature,
        "calibration": {
            "uncalibrated": calibration.measure(probabilities, labels)._asdict(),
            "temperature-scaled": calibration.measure(scaled, labels)._asdict(),
        },
        "calibrated": "the class probabilities",
        "reliability": [each._asdict() for each in calibration.equal_width(probabilities.max(1), right)],
    }


def _calibration_of_answers(kind: str, validation: Collected, test: Collected) -> dict[str, Any]:
    """That of the probability of a text, for the event that it is right, by the metric `kind`."""

    def events(found: Collected) -> tuple[np.ndarray, np.ndarray]:
        right = [intervals.value(kind, [line]) == _RIGHT[kind] for line in found.lines]
        return np.array([found.confidence[line["index"]] for line in found.lines]), np.array(right)

    confidence, right = events(validation)
    temperature = calibration.fit_temperature(np.stack([1 - confidence, confidence], axis=1), right.astype(int))
    confidence, right = events(test)
    scaled = calibration.sharpened(confidence, temperature)
    return {
        "temperature": temperature,
        "calibration": {
            "uncalibrated": calibration.of_confidence(confidence, right)._asdict(),
            "temperature-scaled": calibration.of_confidence(scaled, right)._asdict(),
        },
        "calibrated": f"the probability of an answer, which is right if its {kind} is {_RIGHT[kind]}",
        "reliability": [each._asdict() for each in calibration.equal_width(confidence, right)],
    }


def _groups(scored: Sequence[scoring.Scored], fields: Sequence[str]) -> dict[str, dict[str, Any]]:
    """`{metric: {field: {"groups", "worst"}}}`. Raises ValueError for a field that none of them has."""
    known = {each.metric: groups.fields(each.records) for each in scored}
    for field in fields:
        if not any(field.partition(":")[0] in each.records[0] for each in scored):
            names = ", ".join(dict.fromkeys(name for of_one in known.values() for name in of_one)) or "none"
            raise ValueError(f"the examples have no group {field!r}; choose from {names}")
    found = {}
    for each in scored:
        own = [field for field in fields if field.partition(":")[0] in each.records[0]]
        found[each.metric] = {field: _group(each, field) for field in (own if fields else known[each.metric])}
    return found


def _group(scored: scoring.Scored, field: str) -> dict[str, Any]:
    own = groups.of_field(scored.records, field, scored.measure, scored.mode)
    worst = groups.worst(own)
    interval = "Wilson" if scored.measure is groups.accuracy else "bootstrap"
    return {"groups": [each._asdict() for each in own], "worst": worst.name if worst else None, "interval": interval}


def _mistakes(data: Any, test: Collected) -> list[dict[str, Any]]:
    """The wrong predictions with the highest probabilities."""
    probabilities, labels = _labelled(data, test)
    wrong = np.flatnonzero(probabilities.argmax(1) != labels)
    order = wrong[np.argsort(-probabilities.max(1)[wrong], kind="stable")][:MISTAKES]
    return [
        {key: test.lines[row][key] for key in _SHOWN if key in test.lines[row]}
        | {
            "class": data.class_names[labels[row]],
            "predicted": test.lines[row]["predicted"],
            "probability": float(probabilities[row].max()),
        }
        for row in order
    ]


def _worst(scored: scoring.Scored, shown: bool) -> list[dict[str, Any]]:
    """The examples with the worst scores; none that are entirely right."""
    sign = 1 if scored.mode == "max" else -1
    values = [sign * scoring.of_one(scored, record) for record in scored.records]
    best = np.nanmax(values)
    order = sorted((row for row, value in enumerate(values) if value < best), key=lambda row: values[row])[:MISTAKES]
    fields = (*_SHOWN, *_TEXTS) if shown else _SHOWN
    return [
        {key: scored.records[row][key] for key in fields if key in scored.records[row]}
        | {scored.metric: sign * values[row]}
        for row in order
    ]
