"""Reads boxes from Pascal VOC's XML; anything unexpected is an error in one line that names the entry."""

import math
import xml.etree.ElementTree as ElementTree
from typing import NamedTuple

from research.data.images.builders.boxes import MAX_COORDINATE, Object
from research.data.images.views import Size

MAX_BYTES = 64 * 2**20  # of an annotation; thousands of objects take one MiB
SIDES = ("xmin", "ymin", "xmax", "ymax")
DIFFICULT = {
    **dict.fromkeys(("", "0", "false", "no", "unspecified"), False),
    **dict.fromkeys(("1", "true", "yes"), True),
}


class VocFile(NamedTuple):
    """The content of an annotation file."""

    file_name: str  # "" if there is none
    objects: list[Object]
    size: Size | None  # height and width; None if they are missing or 0


def parse(xml: bytes, path: str) -> VocFile:
    """Parses an annotation file. Raises ValueError, which names `path` and the entry, for anything unexpected."""
    root = _root(xml, path)
    if root.tag != "annotation":
        raise ValueError(f"{path} is not a Pascal VOC annotation: its root is <{root.tag[:50]}>, not <annotation>")
    objects = [_object(each, f"{path}: object {number}") for number, each in enumerate(root.iter("object"), start=1)]
    return VocFile(root.findtext("filename", "").strip(), objects, _size(root, path))


def _root(xml: bytes, path: str) -> ElementTree.Element:
    if len(xml) > MAX_BYTES:
        raise ValueError(f"{path} has {len(xml):,} bytes; an annotation may have at most {MAX_BYTES:,}")
    # Annotations need no entities, and a few of them can expand to gigabytes. Null bytes come from UTF-16.
    if b"<!ENTITY" in xml.replace(b"\0", b""):
        raise ValueError(f"{path} is not readable XML (it declares entities, which are not expanded)")
    try:
        root = ElementTree.fromstring(xml)
    except (ElementTree.ParseError, ValueError, LookupError) as error:  # the last two for unusual encodings
        raise ValueError(f"{path} is not readable XML ({error})") from None
    for each in root.iter():
        each.tag = each.tag.rpartition("}")[2]  # without its namespace
    return root


def _object(entry: ElementTree.Element, what: str) -> Object:
    box, name = entry.find("bndbox"), entry.findtext("name", "").strip()
    corners = [_number(box.findtext(side, "")) for side in SIDES] if box is not None else []
    left, top, right, bottom = corners or [None] * 4
    if left is None or top is None or right is None or bottom is None:
        raise ValueError(f"{what} has no bndbox of four numbers")
    if not name:
        raise ValueError(f"{what} has no name")
    difficult = entry.findtext("difficult", "").strip()
    if difficult.lower() not in DIFFICULT:
        raise ValueError(f"{what} has difficult={difficult[:50]!r}; it must be 0 or 1")
    return Object((left, top, right, bottom), name, crowd=DIFFICULT[difficult.lower()])


def _size(root: ElementTree.Element, path: str) -> Size | None:
    texts = [root.findtext(f"size/{side}", "").strip() for side in ("height", "width")]
    sides = [_number(text or "0") for text in texts]
    for text, side in zip(texts, sides, strict=True):
        if side is None or side < 0 or side != math.floor(side):
            raise ValueError(f"{path} has {text[:50]!r} in its size; a number of px is needed")
    height, width = (int(side or 0) for side in sides)
    return (height, width) if height and width else None


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if abs(value) <= MAX_COORDINATE else None  # false for NaN
