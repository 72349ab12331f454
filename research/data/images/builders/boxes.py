"""Base class of the builders of images with boxes: the encoded bytes are stored, and each image is checked once.

Boxes are left, top, right and bottom in px of the upright image: VOC's corners unchanged, COCO's bbox as (x, y,
x + width, y + height). If an image has an EXIF orientation, the size in its annotation tells whether boxes refer to the
upright or to the stored image; without a size, to the upright one. Boxes that are empty, inverted or extend outside
their image are stored too, and counted; the config decides what to do with them (see detection.py).
"""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from research.data.images import files as image_files
from research.data.images import transforms
from research.data.images.builders.labelled import ImageBuilder
from research.data.images.views import Size, size_of

NAMED = 5  # bad boxes listed in a summary
MAX_COORDINATE = 1e9  # px, largest coordinate accepted in an annotation


class Object(NamedTuple):
    """A box and the name of its class; `crowd` regions are ignored by scores (also for VOC's difficult objects)."""

    box: tuple[float, float, float, float]
    name: str
    crowd: bool = False
    area: float = 0.0  # px; 0: that of the box


class Boxed(NamedTuple):
    """The bytes of an image and its objects. TFDS orders images by the hash of `member`, the name of the image."""

    archive: Path | str
    member: str
    encoded: bytes
    objects: Sequence[Object]
    annotation: str  # the name of the annotation, for messages
    size: Size | None = None  # height and width in the annotation; None if it has none

    @property
    def path(self) -> str:
        """The name of the image, for messages."""
        return f"{self.archive}/{self.member}"


class BoxBuilder(ImageBuilder, skip_registration=True):
    """A TFDS builder of (image, boxes, labels, crowd, areas, name) examples."""

    class_names: Sequence[str] = ()

    def __init__(self, **kwargs):
        self._lock = threading.Lock()  # images are checked in threads
        super().__init__(**kwargs)

    def _info(self):
        features = {
            "image": tfds.features.Image(shape=(None, None, 3)),
            "boxes": tfds.features.Tensor(shape=(None, 4), dtype=np.float32),
            "labels": tfds.features.Tensor(shape=(None,), dtype=np.int64),
            "crowd": tfds.features.Tensor(shape=(None,), dtype=np.int64),
            "areas": tfds.features.Tensor(shape=(None,), dtype=np.float32),
            "name": tfds.features.Text(),
        }
        # The most boxes of an image and the numbers of the summary; filled while preparing.
        metadata = tfds.core.MetadataDict(
            most=0, boxes=0, bad={"empty": [], "outside": []}, crowds=0, negatives=0, turned=0
        )
        return tfds.core.DatasetInfo(
            builder=self, description=__doc__, features=tfds.features.FeaturesDict(features), metadata=metadata
        )

    def example(self, image: Boxed) -> dict[str, Any]:
        """See ImageBuilder."""
        objects = _upright(image, self._size(image)) if _is_turned(image) else image.objects
        boxes = _boxes(objects)
        areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        given = np.array([each.area for each in objects], np.float32)
        number = {name: index for index, name in enumerate(self.class_names)}
        return {
            "image": image.encoded,
            "boxes": boxes.astype(np.float32),
            "labels": np.array([number[each.name] for each in objects], np.int64),
            "crowd": np.array([each.crowd for each in objects], np.int64),
            "areas": np.where(given > 0, given, areas).astype(np.float32),
            "name": image.member,
        }

    def problem(self, image: Boxed) -> str | None:
        """See ImageBuilder; also an unknown class, and an annotation of another image size."""
        try:
            size = self._size(image)
        except ValueError as error:
            return str(error)
        if image.size not in (None, size) and not (_is_turned(image) and image.size == size[::-1]):
            (height, width), (annotated_height, annotated_width) = size, image.size
            return (
                f"is {width} x {height} px, but {annotated_width} x {annotated_height} px in {image.annotation}, so "
                "its boxes would be misplaced"
            )
        for each in image.objects:
            if each.name not in self.class_names:
                known = ", ".join(self.class_names)
                return f"has an object {each.name!r} in {image.annotation}; the classes are {known}"
        self._count(image, size)
        return None

    def _size(self, image: Boxed) -> Size:
        return size_of(transforms.decode(image.encoded, self.channels))

    def _count(self, image: Boxed, size: Size) -> None:
        with self._lock:
            metadata = self.info.metadata
            metadata["most"] = max(metadata["most"], len(image.objects))
            metadata["boxes"] += len(image.objects)
            metadata["crowds"] += sum(each.crowd for each in image.objects)
            metadata["negatives"] += not image.objects
            metadata["turned"] += image_files.orientation(image.encoded) != 1
            objects = _upright(image, size)
            found = bad(_boxes(objects), size)
            for kind, wrong in zip(("empty", "outside"), found, strict=True):
                for index in np.flatnonzero(wrong):
                    box = ", ".join(f"{side:g}" for side in objects[int(index)].box)
                    metadata["bad"][kind].append(f"{image.annotation} [{box}]")

    def summary(self) -> str:
        """The number of boxes, the bad ones, and the images that were rotated."""
        metadata = self.info.metadata
        kinds = {"empty or inverted": metadata["bad"]["empty"], "extending outside": metadata["bad"]["outside"]}
        parts = [f"{len(entries)} {what}: {_some(entries)}" for what, entries in kinds.items() if entries]
        summary = [f"{metadata['boxes']} boxes" + (f", of them {'; '.join(parts)}" if parts else "")]
        counts = {
            "crowds": "crowd or difficult",
            "negatives": "images without boxes",
            "turned": "images turned upright by their EXIF orientation",
        }
        summary += [f"{metadata[key]} {what}" for key, what in counts.items() if metadata[key]]
        return ", ".join(summary)


def _some(entries: Sequence[str]) -> str:
    more = f" and {len(entries) - NAMED} more" if len(entries) > NAMED else ""
    return f"{'; '.join(sorted(entries)[:NAMED])}{more}"


def bad(boxes: np.ndarray, size: Size) -> tuple[np.ndarray, np.ndarray]:
    """Two masks [count] over the boxes [count, 4] of an image of `size`: empty or inverted; others, partly outside."""
    boxes = boxes.reshape(-1, 4)
    limits = np.array([size[1], size[0]] * 2)
    clipped = boxes.clip(0, limits)
    empty = ~((clipped[:, 2] > clipped[:, 0]) & (clipped[:, 3] > clipped[:, 1]))  # also true for NaN
    return empty, ~empty & (clipped != boxes).any(1)


def _boxes(objects: Sequence[Object]) -> np.ndarray:
    return np.array([each.box for each in objects], np.float64).reshape(-1, 4)


def _is_turned(image: Boxed) -> bool:
    """Whether EXIF swaps height and width of an image whose annotation has a size."""
    return image.size is not None and image_files.orientation(image.encoded) >= 5


def _upright(image: Boxed, size: Size) -> Sequence[Object]:
    """The objects in coordinates of the upright image, which has `size`."""
    if image.size in (None, size):
        return image.objects
    height, width = size
    mirrored_x, mirrored_y = {5: (False, False), 6: (True, False), 7: (True, True), 8: (False, True)}[
        image_files.orientation(image.encoded)
    ]
    moved = []
    for each in image.objects:
        top, left, bottom, right = each.box  # the stored x is the upright y
        left, right = (width - right, width - left) if mirrored_x else (left, right)
        top, bottom = (height - bottom, height - top) if mirrored_y else (top, bottom)
        moved.append(each._replace(box=(left, top, right, bottom)))
    return moved
