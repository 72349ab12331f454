"""Reads boxes from COCO's JSON; anything unexpected is an error in one line that names the entry.

It uses `images` (id, file_name, optionally width and height), `categories` (id, name) and `annotations` (image_id,
category_id, bbox, optionally id, area, iscrowd). Ids are integers or strings.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from research.data.builders import text_files
from research.data.images.builders.boxes import MAX_COORDINATE, Object
from research.data.images.views import Size

PARTS = ("images", "annotations", "categories")
Id = int | str


class CocoImage(NamedTuple):
    """An image as described by an annotation file."""

    file_name: str
    size: Size | None  # height and width; None if they are missing or 0
    objects: Sequence[Object]


class CocoFile(NamedTuple):
    """The images of an annotation file, and its categories by id."""

    images: Sequence[CocoImage]
    categories: Mapping[Id, str]


def looks_like_coco(file: Path) -> bool:
    """Whether a .json file is an object with at least two of COCO's keys; it is not parsed, since it may be large."""
    try:
        with file.open("rb") as stream:
            if stream.read(64).removeprefix(b"\xef\xbb\xbf").lstrip()[:1] != b"{":
                return False
        content = file.read_bytes()
    except (OSError, MemoryError):
        return False
    return sum(b'"%s"' % part.encode() in content for part in PARTS) >= 2


def read(file: Path) -> CocoFile:
    """Reads an annotation file. Raises ValueError, which names the file and the entry, for anything unexpected."""
    content = _json(file)
    for part in PARTS:
        if not isinstance(content, dict) or not isinstance(content.get(part), list):
            raise ValueError(f"{file} is not a COCO annotation file: it must be an object with a list of {part}")
    categories = {
        each.id("id"): each.text("name").strip() for each in _entries(content["categories"], file, "category")
    }
    images, objects = {}, {}
    for each in _entries(content["images"], file, "image"):
        number = each.id("id")
        images[number] = (each.text("file_name"), _size(each))
        objects[number] = []
    for each in _entries(content["annotations"], file, "annotation"):
        image, category = each.id("image_id"), each.id("category_id")
        if image not in images or category not in categories:
            raise each.error("refers to an image or category that is not in the file")
        objects[image].append(_object(each, categories[category]))
    return CocoFile([CocoImage(name, size, objects[number]) for number, (name, size) in images.items()], categories)


def _json(file: Path) -> Any:
    reason = ""
    try:
        return json.loads(text_files.text(file))
    except OSError as error:
        raise ValueError(f"{file} cannot be read ({error})") from None
    except MemoryError:
        reason = "it does not fit into memory"
    except RecursionError:
        reason = "its lists or objects are nested too deeply"
    except json.JSONDecodeError as error:
        reason = f"{type(error).__name__}: {error}"
    except ValueError as error:
        if "integer string conversion" not in str(error):
            raise  # raised by text_files for invalid UTF-8
        reason = "it holds an integer of thousands of digits"
    raise ValueError(f"{file} is not a COCO annotation file ({reason})")


class _Entry(NamedTuple):
    """An entry of a list of the file, with accessors that check types."""

    values: Mapping[str, Any]
    kind: str
    file: Path

    def error(self, why: str) -> ValueError:
        """A ValueError that names this entry."""
        number = self.values.get("id")
        known = self.kind == "annotation" and isinstance(number, int | str)  # other entries are short enough to show
        return ValueError(f"{self.file}: {f'annotation {number}' if known else f'the {self.kind} {self.shown}'} {why}")

    @property
    def shown(self) -> str:
        return _shown(self.values)

    def given(self, key: str) -> Any:
        if key not in self.values:
            raise self.error(f"has no {key}")
        return self.values[key]

    def id(self, key: str) -> Id:
        value = self.given(key)
        if isinstance(value, float) and value.is_integer():
            value = int(value)  # pandas writes integer columns with gaps as floats
        if not isinstance(value, int | str) or isinstance(value, bool):
            raise self.error(f"has the {key} {_shown(value)}; an integer or a string is needed")
        return value

    def text(self, key: str) -> str:
        value = self.given(key)
        if not isinstance(value, str) or not value.strip() or "\0" in value:
            raise self.error(f"has the {key} {_shown(value)}; a string is needed")
        try:
            value.encode()
        except UnicodeEncodeError:
            raise self.error(f"has a {key} with half of a surrogate pair") from None
        return value

    def number(self, key: str) -> float:
        """A number of at least 0; 0 if it is missing."""
        value = self.values.get(key)
        if value is not None and (not _is_number(value) or value < 0):
            raise self.error(f"has the {key} {_shown(value)}; a number of px is needed")
        return float(value or 0)


def _entries(entries: Sequence[Any], file: Path, kind: str) -> Iterator[_Entry]:
    """The entries of a list. Raises ValueError for one that is not an object, and for a repeated id."""
    seen = set()
    for position, values in enumerate(entries, start=1):
        if not isinstance(values, dict):
            raise ValueError(f"{file}: {kind} number {position} is {_shown(values)}, not an object")
        entry = _Entry(values, kind, file)
        if kind != "annotation" or values.get("id") is not None:  # nothing refers to annotations
            number = entry.id("id")
            if number in seen:
                raise ValueError(f"{file}: two {kind} entries have the id {number!r}; ids must be unique")
            seen.add(number)
        yield entry


def _size(entry: _Entry) -> Size | None:
    height, width = entry.number("height"), entry.number("width")
    if height % 1 or width % 1:
        raise entry.error(f"has a size of {width:g} x {height:g} px; integers are needed")
    return (int(height), int(width)) if height and width else None


def _object(entry: _Entry, name: str) -> Object:
    bbox, crowd = entry.given("bbox"), entry.values.get("iscrowd")
    if not isinstance(bbox, list) or len(bbox) != 4 or not all(map(_is_number, bbox)):
        raise entry.error(f"has no bbox of four numbers, but {_shown(bbox)}")
    if crowd not in (None, 0, 1):  # true and false are equal to 1 and 0
        raise entry.error(f"has iscrowd {_shown(crowd)}; it must be 0 or 1")
    x, y, width, height = map(float, bbox)
    return Object((x, y, x + width, y + height), name, crowd=bool(crowd), area=entry.number("area"))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and -MAX_COORDINATE <= value <= MAX_COORDINATE


def _shown(value: Any) -> str:
    """The beginning of a value as JSON, for messages."""
    try:
        text = json.dumps(value)
    except RecursionError:
        return f"a deeply nested {type(value).__name__}"
    return text if len(text) <= 100 else f"{text[:100]}..."
