"""The examples of a split with their scores and with the fields by which they can be grouped."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from research.metrics import box_scores, face_scores, metric, scripts
from research.metrics.lengths import quarters
from research.report import intervals
from research.trust import groups
from research.trust.collecting import Collected

LENGTH, WORDS, SECONDS = "length", "words", "milliseconds"  # quartiles: characters of a source, words of a transcript
IDENTIFICATION, PAIRS = "identification", "pair_accuracy"
IOU = 0.5  # of an object that is found
SMALL, MEDIUM = 32**2, 96**2  # px: the upper limits of the areas of small and medium objects, as in COCO


@dataclasses.dataclass(frozen=True)
class Scored:
    """Examples, objects or pairs of examples, and the `measure` of any of them, named `metric`."""

    metric: str
    records: list[dict[str, Any]]
    measure: groups.Measure

    @property
    def mode(self) -> str:
        """Whether the highest ("max") or the lowest ("min") score is the best."""
        return metric.mode(self.metric)


def of(data: Any, split: str, found: Collected, name: str) -> list[Scored]:
    """The scores of collected examples by `name`, one of `found.metrics`; of faces and boxes two of them may exist.

    Raises ValueError for another name.
    """
    if name not in found.metrics:
        raise ValueError(f"--metric={name!r} is not a score of this run; choose from {', '.join(found.metrics)}")
    first = found.lines[0]
    if "predicted" in first:
        rows = _described(data, split, found.lines)
        truth = "class" if "class" in first else "target"
        return [Scored(name, [row | {"right": row["predicted"] == row[truth]} for row in rows], groups.accuracy)]
    if "person" in first or "path1" in first:
        return sorted(_faces(data, split, found.lines), key=lambda scored: scored.metric != name)
    rows = _described(data, split, found.lines)
    scored = Scored(name, rows, lambda own: intervals.measured(name, own))
    return [scored, _objects(rows)] if "boxes" in first else [scored]


def value(name: str, lines: groups.Records) -> float:
    """The score `name` of the lines of collected examples."""
    if name == PAIRS:
        return float(_pairs_right([line for line in lines if "path1" in line]).mean())
    found = intervals.value(name, lines)
    assert found is not None  # it is one of Collected.metrics
    return found


def _described(data: Any, split: str, lines: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The lines with the fields of their references, and quartiles of lengths."""
    rows = []
    for line in lines:
        reference = data.reference(split, line["index"])
        rows.append({**{key: value for key, value in reference.items() if isinstance(value, str | int)}, **line})
    if all("source" in row for row in rows):
        _add_quarters(rows, LENGTH, [len(row["source"]) for row in rows])
        _add(rows, "script", [scripts.of([row["source"]]) for row in rows])
    if "prediction" in rows[0] and "source" not in rows[0]:
        _add_quarters(rows, WORDS, [len(scripts.spoken(row["references"][0])) for row in rows])
    if seconds_of := getattr(getattr(data, "prepared", None), "seconds", None):  # of sounds
        seconds = seconds_of(split)
        _add_quarters(rows, SECONDS, [1000 * seconds[row["index"]] for row in rows])
    if "confusion" in rows[0]:
        names = [PurePosixPath(row["name"]) for row in rows]
        _add(rows, "drive", [name.stem.partition("_")[0] for name in names])
        _add(rows, "folder", [str(name.parent) for name in names])
    if "boxes" in rows[0]:
        _add(rows, "image_size", ["{} x {}".format(*row["size"]) for row in rows])
        _add_quarters(rows, "objects_in_image", [len(row["objects"]["labels"]) for row in rows])
    return rows


def _add(rows: list[dict[str, Any]], field: str, values: Sequence[str]) -> None:
    for row, value in zip(rows, values, strict=True):
        row.setdefault(field, value)


def _add_quarters(rows: list[dict[str, Any]], field: str, lengths: Sequence[float]) -> None:
    _add(rows, field, quarters(lengths))


def _objects(rows: Sequence[Mapping[str, Any]]) -> Scored:
    """The objects of images, and whether each is found by a box of its class with an IoU of IOU or more.

    The interval is over images. Crowds are left out.
    """
    images, names = box_scores.from_lines([dict(row) for row in rows])
    hits = found_objects(images, names)
    records, number = [], 0
    for row, image in zip(rows, images, strict=True):
        reference = image["reference"]
        for label, crowd, area in zip(reference["labels"], reference["crowd"], reference["areas"], strict=True):
            number += 1
            if not crowd:
                size = "small" if area < SMALL else "medium" if area < MEDIUM else "large"
                described = {"class": names[label], "object_size": size, "right": number in hits}
                records.append({"index": row["index"], "name": row["name"], **described})
    measure = lambda own: intervals.mean_over([each["right"] for each in own], [each["index"] for each in own])
    return Scored("recall", records, measure)


def found_objects(images: list[dict[str, Any]], class_names: tuple[str, ...]) -> set[int]:
    """The numbers, from 1 in the order of images and their objects, of the objects that pycocotools matches at IOU."""
    scores = box_scores.evaluated(images, class_names)
    cells = [cell for cell in scores.evalImgs if cell and cell["aRng"] == scores.params.areaRng[0]]
    return {
        int(number)
        for cell in cells
        for number, match in zip(cell["gtIds"], np.asarray(cell["gtMatches"])[0], strict=True)
        if match > 0
    }


def _faces(data: Any, split: str, lines: Sequence[Mapping[str, Any]]) -> list[Scored]:
    """The identified images, and the pairs, each of which is an example of both of its people."""
    images = {each["path"]: each for each in _references(data, split)}
    columns = lambda path: {key: images[path][key] for key in ("person", *data.columns)}
    probes = [line for line in lines if "found" in line]
    scored = []
    if probes:
        rows = [{**line, **columns(line["path"]), "right": line["found"] == line["person"]} for line in probes]
        scored.append(Scored(IDENTIFICATION, rows, groups.accuracy))
    pairs = [line for line in lines if "path1" in line]
    if pairs:
        rows = []
        for pair, right in zip(pairs, _pairs_right(pairs), strict=True):
            one, other = (columns(pair[key]) for key in ("path1", "path2"))
            shared = {key: one[key] if one[key] == other[key] else "mixed" for key in data.columns}
            kind = "same person" if pair["same"] else "two people"
            people = {"person": (one["person"], other["person"]), "kind": kind}
            rows.append({**pair, **people, **shared, "right": bool(right)})
        scored.append(Scored(PAIRS, rows, groups.accuracy))
    return scored


def _pairs_right(pairs: groups.Records) -> np.ndarray:
    """Whether each pair is classified correctly, by a threshold from the other folds."""
    given = (np.array([pair[key] for pair in pairs]) for key in ("similarity", "same", "fold"))
    return face_scores.fold_accuracies(*given)[0]


def _references(data: Any, split: str) -> list[Mapping[str, Any]]:
    """Those of a split of faces and of its gallery."""
    found, index = [], 0
    while True:
        try:
            found.append(data.reference(split, index))
        except IndexError:
            return found
        index += 1


def of_one(scored: Scored, record: Mapping[str, Any]) -> float:
    """The score of one of the records; NaN if it has none, such as an image without objects."""
    found = float(record["right"]) if "right" in record else intervals.value(scored.metric, [record])
    return math.nan if found is None else found
