"""What our builders of pictures with boxes share: bytes are kept as found, each picture is checked once.

Boxes are left, top, right and bottom in px, as the annotations say them: corners of VOC are taken as they are, those
of COCO are (x, y, x + width, y + height). Boxes that are empty, inverted or reach outside their picture are stored
too, and counted; what becomes of them is for the config to say (data/detection.py).
"""

import threading
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from research.data import images
from research.data.builders.pictures import PictureBuilder, undecodable
from research.data.views import Size, size_of

NAMED = 5  # bad boxes that a summary names


class Object(NamedTuple):
    """A box and the name of its class; `crowd`: scores ignore what is found there (VOC's difficult objects too)."""

    box: tuple[float, float, float, float]
    name: str
    crowd: bool = False
    area: float = 0.0  # px; 0: that of the box


class Boxed(NamedTuple):
    """The bytes of a picture and its objects. The stored order hashes `member`, which is kept as its name."""

    archive: Path | str
    member: str
    encoded: bytes
    objects: Sequence[Object]
    annotation: str  # what names the annotation to a person
    size: Size | None = None  # height and width, as the annotation has them; None where it has none

    @property
    def path(self) -> str:
        """What names the picture to a person."""
        return f"{self.archive}/{self.member}"


class BoxBuilder(PictureBuilder, skip_registration=True):
    """A TFDS builder of (image, boxes, labels, crowd, areas, name) examples."""

    class_names: Sequence[str] = ()

    def __init__(self, **kwargs):
        self._lock = threading.Lock()  # pictures are checked in threads
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
        # The most boxes in a picture, bad boxes, and pictures of another size than their annotation says; known when it
        # is prepared.
        metadata = tfds.core.MetadataDict(most=0, boxes=0, bad={"empty": [], "outside": []}, resized=[])
        return tfds.core.DatasetInfo(
            builder=self, description=__doc__, features=tfds.features.FeaturesDict(features), metadata=metadata
        )

    def example(self, picture: Boxed) -> dict[str, Any]:
        """See PictureBuilder."""
        boxes = np.array([each.box for each in picture.objects], np.float32).reshape(-1, 4)
        areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        given = np.array([each.area for each in picture.objects], np.float32)
        number = {name: index for index, name in enumerate(self.class_names)}
        return {
            "image": picture.encoded,
            "boxes": boxes,
            "labels": np.array([number[each.name] for each in picture.objects], np.int64),
            "crowd": np.array([each.crowd for each in picture.objects], np.int64),
            "areas": np.where(given > 0, given, areas).astype(np.float32),
            "name": picture.member,
        }

    def problem(self, picture: Boxed) -> str | None:
        """See PictureBuilder: a class that is not known is one."""
        if problem := undecodable(lambda: images.decode(picture.encoded, self.channels)):
            return problem
        for each in picture.objects:
            if each.name not in self.class_names:
                known = ", ".join(self.class_names)
                return f"has an object {each.name!r} in {picture.annotation}; the classes are {known}"
        self._note(picture, size_of(images.decode(picture.encoded, self.channels)))
        return None

    def _note(self, picture: Boxed, size: Size) -> None:
        with self._lock:
            metadata = self.info.metadata
            metadata["most"] = max(metadata["most"], len(picture.objects))
            metadata["boxes"] += len(picture.objects)
            if picture.size not in (None, size):
                metadata["resized"].append(f"{picture.annotation} ({picture.size[1]} x {picture.size[0]})")
            found = bad(np.array([each.box for each in picture.objects]), size)
            for kind, wrong in zip(("empty", "outside"), found, strict=True):
                for index in np.flatnonzero(wrong):
                    box = ", ".join(f"{side:g}" for side in picture.objects[index].box)
                    metadata["bad"][kind].append(f"{picture.annotation} [{box}]")

    def summary(self) -> str:
        """How many boxes there are, which of them are bad, and which pictures may be turned."""
        metadata = self.info.metadata
        kinds = {"empty or inverted": metadata["bad"]["empty"], "reaching outside": metadata["bad"]["outside"]}
        parts = [f"{len(entries)} {what}: {_some(entries)}" for what, entries in kinds.items() if entries]
        text = f"{metadata['boxes']} boxes" + (f", of them {'; '.join(parts)}" if parts else "")
        if resized := metadata["resized"]:
            text += f", {len(resized)} pictures of another size than annotated, perhaps turned: {_some(resized)}"
        return text


def _some(entries: Sequence[str]) -> str:
    more = f" and {len(entries) - NAMED} more" if len(entries) > NAMED else ""
    return f"{'; '.join(sorted(entries)[:NAMED])}{more}"


def bad(boxes: np.ndarray, size: Size) -> tuple[np.ndarray, np.ndarray]:
    """Of boxes [count, 4] in a picture of `size`: which are empty or inverted there, and which others reach outside."""
    boxes = boxes.reshape(-1, 4)
    limits = np.array([size[1], size[0]] * 2)
    clipped = boxes.clip(0, limits)
    empty = ~((clipped[:, 2] > clipped[:, 0]) & (clipped[:, 3] > clipped[:, 1]))  # so also where a side is no number
    return empty, ~empty & (clipped != boxes).any(1)


def parse_voc(xml: bytes, path: str) -> tuple[str, list[Object], Size | None]:
    """The file name of the picture ("" where none is given), the objects and the size of a Pascal VOC annotation.

    The size is None where it is not given or 0.

    Raises ValueError, which names `path` and the entry, for one that cannot be read.
    """
    try:
        root = ElementTree.fromstring(xml)
    except (ElementTree.ParseError, ValueError, LookupError) as error:  # the last two are of unusual encodings
        raise ValueError(f"{path} is no XML that can be read ({error})") from None
    objects = []
    for number, each in enumerate(root.iter("object"), start=1):
        name, box = each.findtext("name", "").strip(), each.find("bndbox")
        try:
            corners = tuple(float(box.findtext(side)) for side in ("xmin", "ymin", "xmax", "ymax"))
        except (AttributeError, TypeError, ValueError):
            raise ValueError(f"{path}: object {number} has no bndbox of four numbers") from None
        if not name:
            raise ValueError(f"{path}: object {number} has no name")
        objects.append(Object(corners, name, crowd=each.findtext("difficult", "0").strip() == "1"))
    size = [root.findtext(f"size/{side}", "").strip() for side in ("height", "width")]
    known = all(each.isdecimal() and int(each) for each in size)
    return root.findtext("filename", "").strip(), objects, tuple(map(int, size)) if known else None
