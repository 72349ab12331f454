"""Average precision of boxes by pycocotools, on the host."""

import contextlib
import io
import json
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol, TypedDict

import numpy as np
from jaxtyping import Bool, Float

from research.spec.contracts import ClassDataset, HostOutputs

# pycocotools' summary, in its order: AP, AP at IoU .5 and .75, AP by size of object; AR with 1, 10 and 100 boxes.
_SUMMARY = ("map", "map50", "map75", "map_small", "map_medium", "map_large", "ar1", "ar10", "ar100")
NAMES = _SUMMARY[:6]
MAX_DETECTIONS = (1, 10, 100)  # of an image, in its summary


class BoxReference(TypedDict):
    """The ground truth of an image: its valid boxes."""

    name: str  # of the image
    size: tuple[int, int]  # height, width in px
    boxes: np.ndarray  # float32 [count, 4]: left, top, right and bottom in px
    labels: np.ndarray  # [count]
    crowd: np.ndarray  # [count]: 1 for regions that scores ignore
    areas: np.ndarray  # [count], in px


class BoxDataset(ClassDataset, Protocol):
    """A data set of images with boxes."""

    def reference(self, split: str, index: int) -> BoxReference:
        """The boxes of an image."""
        ...

    def in_image(self, boxes: Float[np.ndarray, "boxes 4"], size: tuple[int, int]) -> Float[np.ndarray, "boxes 4"]:
        """Maps boxes [count, 4] from the evaluation canvas to px of an image of `size` (height, width)."""
        ...


class CocoScorer:
    """Collects the predicted boxes of a split, in px of the images, and scores them. Crowds are ignored."""

    signatures: Mapping[str, str] = {
        name: f"pycocotools {metadata.version('pycocotools')} bbox, IoU {iou}, 100 boxes an image, as a fraction; "
        "bad boxes left out or cut as the config says"
        for name, iou in {"map": ".50:.05:.95", "map50": ".50", "map75": ".75"}.items()
    }

    def __init__(self, data: BoxDataset, split: str):
        """Raises ValueError for a split without objects."""
        references = (data.reference(split, index) for index in range(data.counts[split]))
        if all(np.all(each["crowd"]) for each in references):  # stops at the first image with an object
            raise ValueError(
                f"no image of the {split} split of {data.name!r} has an object, so nothing can be scored; add some, "
                "or hold out more with config.data.validation_fraction"
            )
        self._data, self._split = data, split
        self._found: dict[int, dict[str, Any]] = {}

    def add(self, outputs: HostOutputs) -> None:
        """Adds a batch of predictions; padding has weight 0 or score 0."""
        for row in np.flatnonzero(outputs["weight"] > 0):
            index, kept = int(outputs["index"][row]), outputs["scores"][row] > 0
            reference = self._data.reference(self._split, index)
            boxes = self._data.in_image(outputs["boxes"][row][kept], reference["size"])
            found = {"boxes": boxes, "scores": outputs["scores"][row][kept], "labels": outputs["labels"][row][kept]}
            self._found[index] = {"reference": reference, "found": found}

    def result(self) -> dict[str, float]:
        """The scores of pycocotools, as fractions, and `ap50_CLASS`.

        Scores over classes or sizes without objects in the split are omitted.
        """
        return average_precision(list(self._found.values()), self._data.class_names)

    def save(self, path: Path) -> None:
        """Writes a line of JSON per image: its name, size (height, width), predicted boxes, and objects."""
        with open(path, "w") as file:
            for index, each in sorted(self._found.items()):
                reference, names = each["reference"], self._data.class_names
                objects = as_json(reference, names) | {key: np.asarray(reference[key]).tolist() for key in _OF_OBJECTS}
                line = {"index": index, "name": reference["name"], "size": reference["size"]}
                line |= as_json(each["found"], names) | {"objects": objects}
                file.write(json.dumps(line) + "\n")


def as_json(found: Mapping[str, np.ndarray], class_names: tuple[str, ...]) -> dict[str, list]:
    """Boxes as (left, top, right, bottom) in px, their scores if present, and their class names."""
    boxes = [[round(float(side), 2) for side in box] for box in found["boxes"]]
    scores = {"scores": [float(f"{score:.6g}") for score in found["scores"]]} if "scores" in found else {}
    return {"boxes": boxes, **scores, "labels": [class_names[label] for label in found["labels"]]}


def from_lines(lines: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    """`(images, class names)` of the lines of a saved file; the classes are those that occur."""
    names = sorted({name for line in lines for name in (*line["labels"], *line["objects"]["labels"])})

    def numbered(boxes):
        labels = [names.index(name) for name in boxes["labels"]]
        return {**boxes, "boxes": np.reshape(boxes["boxes"], (-1, 4)), "labels": labels}

    return [{"reference": numbered(line["objects"]), "found": numbered(line)} for line in lines], tuple(names)


def average_precision(images: list[dict[str, Any]], class_names: tuple[str, ...]) -> dict[str, float]:
    """The scores of `images`, each with its `reference` (boxes, labels, crowd, areas) and predictions `found`."""
    scores = evaluated(images, class_names)
    with contextlib.redirect_stdout(io.StringIO()):  # it reports every step
        scores.summarize()
    values = dict(zip(_SUMMARY, scores.stats, strict=False))
    at_half = precision_at_half(images, class_names, scores)
    values |= {f"ap50_{name}": precision.mean() for name, precision in at_half.items()}
    return {name: float(value) for name, value in values.items() if value >= 0}


def precision_at_half(
    images: list[dict[str, Any]], class_names: tuple[str, ...], scores: Any = None
) -> dict[str, Float[np.ndarray, " recalls"]]:
    """The precision [101] at recalls 0, .01, ... 1 and IoU .5 of each class that has objects."""
    scores = scores or evaluated(images, class_names)
    # precision: [IoU thresholds, recalls, classes, sizes, boxes an image]; -1 where there is no object
    at_half = scores.eval["precision"][0, :, :, 0, -1]
    return {name: at_half[:, number] for number, name in enumerate(class_names) if at_half[0, number] >= 0}


def right_at_half(
    images: list[dict[str, Any]], class_names: tuple[str, ...]
) -> tuple[Float[np.ndarray, " boxes"], Bool[np.ndarray, " boxes"]]:
    """The score of each predicted box, and whether it is matched to an object of its class with an IoU of .5.

    The matching is that of pycocotools: each object once, boxes with higher scores first. Boxes on crowds are omitted.
    """
    scores = evaluated(images, class_names)
    every_size = scores.params.areaRng[0]
    kept = [each for each in scores.evalImgs if each is not None and each["aRng"] == every_size]
    ignored = np.concatenate([np.zeros(0, bool), *(np.asarray(each["dtIgnore"][0], bool) for each in kept)])
    right = np.concatenate([np.zeros(0, bool), *(np.asarray(each["dtMatches"][0]) > 0 for each in kept)])
    confidence = np.concatenate([np.zeros(0), *(np.asarray(each["dtScores"], float) for each in kept)])
    return confidence[~ignored], right[~ignored]


_OF_OBJECTS = ("crowd", "areas")
_REFERENCE = ("boxes", "labels", *_OF_OBJECTS)


def evaluated(images: list[dict[str, Any]], class_names: tuple[str, ...]) -> Any:
    """pycocotools' `COCOeval` of images as in `average_precision`, evaluated and accumulated."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth, results = COCO(), []
    entries = [  # ids from 1: pycocotools takes 0 for no match
        _entry(number, box, label, id=0, iscrowd=int(crowd), area=float(area))
        for number, each in enumerate(images, start=1)
        for box, label, crowd, area in zip(*(each["reference"][key] for key in _REFERENCE), strict=True)
    ]
    for number, entry in enumerate(entries, start=1):
        entry["id"] = number
    dataset: Any = {  # the stub requires fields that are not used
        "info": {},
        "images": [{"id": number} for number in range(1, len(images) + 1)],
        "categories": [{"id": number, "name": name} for number, name in enumerate(class_names, start=1)],
        "annotations": entries,
    }
    truth.dataset = dataset
    for number, each in enumerate(images, start=1):
        found = each["found"]
        for box, label, score in zip(found["boxes"], found["labels"], found["scores"], strict=True):
            results.append(_entry(number, box, label, score=float(score)))
    with contextlib.redirect_stdout(io.StringIO()):  # it reports every step
        truth.createIndex()
        # The stub does not allow lists.
        found = truth.loadRes(results) if results else COCO()  # pyright: ignore[reportArgumentType]
        scores = COCOeval(truth, found, "bbox")
        scores.params.maxDets = list(MAX_DETECTIONS)
        scores.evaluate()
        scores.accumulate()
    return scores


def _entry(image: int, box: np.ndarray, label: int, **fields: Any) -> dict[str, Any]:
    left, top, right, bottom = map(float, box)
    bbox = [left, top, right - left, bottom - top]
    return {"image_id": image, "category_id": int(label) + 1, "bbox": bbox, **fields}
