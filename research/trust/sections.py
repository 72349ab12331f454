"""The sections of a trust report, and their figures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from research.metrics import calibration
from research.report import figures, formats, reliability
from research.trust import corruptions, drawing, groups, looking, sounds, texts
from research.trust.showing import ImageOf, no_image

_SHOWN = 8  # groups of a field from each end
_LONGEST = 300  # characters of a text in a table
_SOURCES = {
    **dict.fromkeys(corruptions.KINDS, "images, strengths as in ImageNet-C (Hendrycks and Dietterich, 2019)"),
    **dict.fromkeys(sounds.KINDS, f"sounds: noise at {', '.join(f'{db:g}' for db in sounds.SNR_DB)} dB, reverberation "
    f"of {', '.join(f'{rt60:g}' for rt60 in sounds.RT60_S)} s (RT60)"),
    **dict.fromkeys(texts.KINDS, f"texts: errors in {', '.join(f'{rate:.0%}' for rate in texts.TYPOS)} of the letters, "
    f"{', '.join(f'{rate:.0%}' for rate in texts.DROPS)} of the words left out"),
}  # fmt: skip


class Section(NamedTuple):
    """A heading; then a text, a table whose first row is its header, and the name of a figure, any of them empty."""

    title: str
    text: str = ""
    table: Sequence[Sequence[str]] = ()
    figure: str = ""


def of(found: Mapping[str, Any], folder: Path, image: ImageOf = no_image) -> list[Section]:
    """The sections of a report (see `measure.measure`), whose figures are written to `folder`."""
    sections = []
    if "calibration" in found:
        bins = [calibration.Bin(**each) for each in found["reliability"]]
        figures.save(reliability.figure(bins), folder / "reliability.png")
        sections.append(_calibration(found))
    sections += _groups(found)
    if found["corruptions"]:
        drawing.corruptions(found["corruptions"], folder / "corruptions.png")
        sections.append(_corruptions(found["corruptions"]))
    if found.get("looks"):
        sections.append(_looks(found["looks"], folder, image))
    if found.get("copies"):
        sections.append(_copies(found["copies"], folder, image))
    return [*sections, _mistakes(found, folder, image)]


def _calibration(found: Mapping[str, Any]) -> Section:
    names = {
        "accuracy": "accuracy", "confidence": "mean confidence", "ece": "ECE, 15 bins of equal width",
        "adaptive_ece": "ECE, 15 bins of equal mass", "brier": "Brier score", "nll": "negative log-likelihood, nats",
    }  # fmt: skip
    kinds = found["calibration"]
    table = [
        ["test", *kinds],
        *([name, *(f"{each[key]:.4f}" for each in kinds.values())] for key, name in names.items()),
    ]
    counts = found["counts"]
    text = (
        f"Of {found['calibrated']}, on {counts['test']:,} test examples. A temperature of {found['temperature']:.3f}, "
        f"fitted on {counts['validation']:,} validation examples, divides the logits; above 1, the model is too "
        "confident. It does not change predictions."
    )
    return Section("Calibration", text, table, "reliability.png")


def _groups(found: Mapping[str, Any]) -> list[Section]:
    return [
        _group(metric, field, content)
        for metric, fields in found["groups"].items()
        for field, content in fields.items()
    ]


def _group(metric: str, field: str, content: Mapping[str, Any]) -> Section:
    rows = content["groups"]
    shown = rows if len(rows) <= 2 * _SHOWN else [*rows[:_SHOWN], *rows[-_SHOWN:]]
    table = [["group", "examples", metric, "95 % interval"]]
    for each in shown:
        value, low, high = (formats.number(each[key], 4) for key in ("value", "low", "high"))
        table.append([each["name"], f"{each['examples']:,}", value, f"{low} to {high}"])
    text = _worst(rows, content["worst"])
    if len(shown) < len(rows):
        text += f" The {_SHOWN} worst and the {_SHOWN} best of {len(rows)} groups are shown."
    how = f"{text} On test, with {content['interval']} intervals."
    return Section(f"{metric} by {field}".replace("_", " "), how, table)


def _worst(rows: Sequence[Mapping[str, Any]], worst: str | None) -> str:
    """A sentence on the worst of the groups that are large enough to be compared."""
    if worst is None:
        return f"No group has the {groups.LEAST} examples that are needed to compare it."
    large = [each for each in rows if each["examples"] >= groups.LEAST]
    value = next(each["value"] for each in large if each["name"] == worst)
    ties = sum(each["value"] == value for each in large) - 1
    among = f" of the groups with {groups.LEAST} or more examples" if len(large) < len(rows) else ""
    return f"Worst{among}: {worst}" + (f", and {ties} with the same score." if ties else ".")


def _corruptions(content: Mapping[str, Any]) -> Section:
    table = [["corruption", *(f"severity {each}" for each in range(1, 6)), "mean"]]
    for kind, values in content["kinds"].items():
        cells = (formats.number(value, 4) for value in (*values, sum(values) / len(values)))
        table.append([kind.replace("_", " "), *cells])
    what = "; ".join(dict.fromkeys(_SOURCES[kind] for kind in content["kinds"]))
    text = (
        f"{content['metric']} of {content['examples']:,} test examples, {formats.number(content['clean'], 4)} without "
        f"corruption ({what}). The mean error over kinds and severities is {content['mean_error']:.4f}."
    )
    return Section("Corruptions", text, table, "corruptions.png")


def _looks(examples: Sequence[Mapping[str, Any]], folder: Path, image: ImageOf) -> Section:
    methods = list(examples[0]["maps"])
    table = [["method", "share of the scores in the highest tenth"]]
    for method in methods:
        shares = [concentration(np.array(each["maps"][method])) for each in examples]
        table.append([method, f"{sum(shares) / len(shares):.4f}"])
    what = "; ".join(looking.DESCRIBED[method] for method in methods)
    text = f"{len(examples)} random test examples. {what}."
    figure = "looks.png" if drawing.maps(examples, image, folder / "looks.png") else ""
    return Section("What the model looks at", text, table, figure)


def concentration(scores: np.ndarray) -> float:
    """The share of the absolute scores that the highest tenth of them has: 0.1 if all are equal, 1 at most."""
    values = np.sort(np.abs(scores).ravel())[::-1]
    return float(values[: max(1, round(len(values) / 10))].sum() / max(values.sum(), 1e-12))


def _copies(content: Mapping[str, Any], folder: Path, image: ImageOf) -> Section:
    name = lambda fields: ", ".join(f"{key} {_cell(value)}" for key, value in fields.items())
    table = [["test", "train", "cosine"]]
    table += [[name(each["test"]), name(each["train"]), f"{each['similarity']:.4f}"] for each in content["pairs"]]
    text = (
        f"{content['count']:,} of {content['test']:,} test examples have a cosine of {content['near']} or more with "
        f"one of {content['train']:,} of train, in the features before the last layer; the median is "
        f"{content['median']:.4f}. A trained model also brings different examples of a class together: look at the "
        "pairs."
    )
    figure = "copies.png" if drawing.pairs(content["pairs"], image, folder / "copies.png") else ""
    return Section("Near-copies in train", text, table, figure)


def _mistakes(found: Mapping[str, Any], folder: Path, image: ImageOf) -> Section:
    lines = found["mistakes"]
    if not lines:
        return Section("Mistakes", "No test example is predicted wrongly, or all equally.")
    table = [list(lines[0]), *([_cell(value) for value in each.values()] for each in lines)]
    by = "the wrong predictions with the highest probabilities" if "probability" in lines[0] else "the worst scores"
    figure = "mistakes.png" if drawing.mistakes(lines, image, folder / "mistakes.png") else ""
    return Section("Mistakes", f"The {len(lines)} test examples with {by}.", table, figure)


def _cell(value: Any) -> str:
    text = formats.number(value) if isinstance(value, float) else " ".join(str(value).split())
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ..."
