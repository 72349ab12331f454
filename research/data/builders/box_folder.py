"""A user's own folder of pictures and boxes, as Pascal VOC or COCO lay them out.

VOC    PATH/{JPEGImages,images}/NAME.*, PATH/{Annotations,annotations}/NAME.xml, and if there are any,
       PATH/ImageSets/Main/{train,val,trainval,test}.txt with a NAME on each line; or pictures and .xml in
       PATH/{train,val,test} or in PATH itself
COCO   PATH/annotations/*.json, one with train, one with val or test in its name, and their pictures in PATH, in
       PATH/images or in folders of these named like the split (train2017); or pictures and one *coco*.json in
       PATH/{train,val,test}

Classes are those that occur, in the order of their names, for COCO in that of their ids. Splits that are missing are
held out of train.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import tensorflow_datasets as tfds

from research.data import image_files
from research.data.builders import folder
from research.data.builders.boxes import BoxBuilder, Boxed, Object, parse_voc
from research.data.builders.folder import SPLIT_FOLDERS
from research.data.views import Size

ANNOTATIONS, PICTURES = ("Annotations", "annotations"), ("JPEGImages", "images")


class Annotated(NamedTuple):
    """A picture, its objects, and the file that says so."""

    picture: Path
    objects: Sequence[Object]
    annotation: Path
    size: Size | None = None  # as the file says, where it does


Found = dict[str, list[Annotated]]


class BoxFolder(BoxBuilder, skip_registration=True):
    """The pictures below `root`, prepared under a digest of its path and of the names, sizes and times of its files."""

    VERSION = tfds.core.Version("2.0.0")  # since images are read upright

    def __init__(self, root: Path, splits: Mapping[str, Sequence[Annotated]], class_names: Sequence[str], **kwargs):
        self._root, self._splits, self.class_names = root, splits, tuple(class_names)
        super().__init__(**kwargs)

    @classmethod
    def of(cls, path: str, data_dir: Path) -> "BoxFolder":
        """The builder of the folder `path`. Raises ValueError for an annotation without its picture or a bad entry."""
        root = Path(path).expanduser().resolve()
        splits, class_names = find(root)
        files = {
            split: sorted({file for each in pictures for file in (each.picture, each.annotation)})
            for split, pictures in splits.items()
        }
        config = tfds.core.BuilderConfig(name=folder.digest(root, files), description=f"The folder {root}.")
        return cls(root, splits, class_names, config=config, data_dir=data_dir, file_format="array_record")

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(split, read(self._root, each)) for split, each in self._splits.items()}


def holds_boxes(path: str) -> bool:
    """Whether the folder `path` looks like one of pictures and boxes."""
    root = Path(path).expanduser()
    return bool(_voc_folder(root) or _coco_files(root)) or any(
        next(place.glob("*.xml"), None) for place in _split_folders(root).values()
    )


def find(root: Path) -> tuple[Found, list[str]]:
    """The pictures of each split, and the names of the classes."""
    if files := _coco_files(root):
        splits, names = _find_coco(root, files)
        _check_once(splits)
        return splits, names
    splits = _find_voc(root)
    _check_once(splits)
    for split, pictures in splits.items():
        if not pictures:
            raise ValueError(f"{root} holds no annotations for {split}; expected NAME.xml beside pictures")
    return splits, sorted({each.name for pictures in splits.values() for one in pictures for each in one.objects})


def _check_once(splits: Found) -> None:
    for pictures in splits.values():
        seen = {}
        for each in pictures:
            if each.picture in seen:
                files = " and ".join(dict.fromkeys(map(str, (seen[each.picture], each.annotation))))
                raise ValueError(f"{files}: there are two entries for the picture {each.picture}; keep one")
            seen[each.picture] = each.annotation


def read(root: Path, pictures: Sequence[Annotated]) -> Iterator[Boxed]:
    """The bytes of each picture."""
    for each in pictures:
        member, annotation = (str(file.relative_to(root)) for file in (each.picture, each.annotation))
        yield Boxed(root, member, each.picture.read_bytes(), each.objects, annotation, each.size)


def _split_folders(root: Path) -> dict[str, Path]:
    found = {split: root / name for name, split in SPLIT_FOLDERS.items() if (root / name).is_dir()}
    return found or ({"train": root} if next(root.glob("*.xml"), None) else {})


# ---- Pascal VOC


def _voc_folder(root: Path) -> Path | None:
    """The folder of annotations; None where there is none with XML in it."""
    places = (root / name for name in ANNOTATIONS)
    return next((place for place in places if next(place.glob("*.xml"), None)), None)


def _find_voc(root: Path) -> Found:
    annotations = _voc_folder(root)
    if annotations is None:
        return {
            split: [_annotated(file, _by_stem(place)) for file in sorted(place.glob("*.xml"))]
            for split, place in _split_folders(root).items()
        }
    pictures = next((root / name for name in PICTURES if (root / name).is_dir()), None)
    if pictures is None:
        raise ValueError(f"{annotations} has no pictures beside it; expected {root}/JPEGImages or {root}/images")
    by_stem, lists = _by_stem(pictures), root / "ImageSets/Main"
    named = {split: lists / f"{name}.txt" for name, split in SPLIT_FOLDERS.items() if (lists / f"{name}.txt").is_file()}
    if not named.keys() & {"train", "validation"} and (lists / "trainval.txt").is_file():
        named["train"] = lists / "trainval.txt"
    if not named:
        return {"train": [_annotated(file, by_stem) for file in sorted(annotations.glob("*.xml"))]}
    found = {}
    for split, file in named.items():
        files = [_listed(annotations, line.strip()) for line in file.read_text().splitlines() if line.strip()]
        for missing in (each for each in files if not each.is_file()):
            raise ValueError(f"{file} names {missing.stem}, but there is no {missing}")
        found[split] = [_annotated(each, by_stem) for each in files]
    return found


def _listed(annotations: Path, line: str) -> Path:
    """The annotation that a line of a list names; in lists of one class, a number follows the name."""
    whole = annotations / f"{line}.xml"
    return whole if whole.is_file() else annotations / f"{line.split()[0]}.xml"


def _by_stem(folder: Path) -> dict[str, Path]:
    suffixes = image_files.suffixes()
    return {file.stem: file for file in sorted(folder.glob("*")) if file.suffix.lower() in suffixes}


def _annotated(file: Path, pictures: Mapping[str, Path]) -> Annotated:
    name, objects, size = parse_voc(file.read_bytes(), str(file))
    picture = pictures.get(file.stem) or pictures.get(Path(name).stem)
    if picture is None:
        raise ValueError(f"{file} is an annotation without its picture {name or file.stem}")
    return Annotated(picture, objects, file, size)


# ---- COCO


def _coco_files(root: Path) -> dict[str, Path]:
    """Split -> its file of annotations."""
    files = {}
    found = sorted((root / "annotations").glob("*.json"))
    # COCO's own folder holds files of key points and captions beside these.
    for file in [each for each in found if each.name.startswith("instances")] or found:
        part = next((split for name, split in SPLIT_FOLDERS.items() if name in file.stem.lower()), "train")
        files.setdefault(part, file)
    for split, place in _split_folders(root).items():
        if file := next(iter(sorted(place.glob("*coco*.json"))), None):
            files[split] = file
    return files


def _find_coco(root: Path, files: Mapping[str, Path]) -> tuple[Found, list[str]]:
    found, named = {}, set()
    for split, file in files.items():
        try:
            content = json.loads(file.read_text("utf-8"))
            images, annotations, categories = (content[key] for key in ("images", "annotations", "categories"))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{file} is no COCO annotation ({type(error).__name__}: {error})") from None
        known = {_given(each, "id", file, "category"): _given(each, "name", file, "category") for each in categories}
        named |= {(number, name) for number, name in known.items()}
        objects = {_given(each, "id", file, "image"): [] for each in images}
        for each in annotations:
            if each.get("image_id") not in objects or each.get("category_id") not in known:
                raise ValueError(f"{file}: annotation {each.get('id')} names a picture or category that is not in it")
            objects[each["image_id"]].append(_coco_object(each, known, file))
        places = _coco_places(root, file)
        found[split] = [
            Annotated(_coco_picture(_given(each, "file_name", file, "image"), places, file), objects[each["id"]], file)
            for each in images
        ]
    used = {each.name for pictures in found.values() for one in pictures for each in one.objects}
    # Files may number the same classes in different ways, or one class twice.
    return found, list(dict.fromkeys(name for _, name in sorted(named) if name in used))


def _given(entry: Mapping, key: str, file: Path, what: str) -> Any:
    """`entry[key]`. Raises ValueError, which names file and entry, where it has none."""
    if not isinstance(entry, Mapping) or key not in entry:
        raise ValueError(f"{file}: the {what} {json.dumps(entry)[:100]} has no {key}")
    return entry[key]


def _coco_object(entry: Mapping, names: Mapping[int, str], file: Path) -> Object:
    try:
        x, y, width, height = map(float, entry["bbox"])
        area, crowd = float(entry.get("area") or 0), bool(entry.get("iscrowd", 0))
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"{file}: annotation {entry.get('id')} has no bbox of four numbers, or a bad area") from None
    return Object((x, y, x + width, y + height), names[entry["category_id"]], crowd, area)


def _coco_places(root: Path, file: Path) -> list[Path]:
    """Where the pictures of a file of annotations may lie: `instances_train2017.json` belongs to `train2017`."""
    part = file.stem.rpartition("_")[2]
    names = (part, f"images/{part}", *(name for name in SPLIT_FOLDERS if name in part), "images", ".")
    return [file.parent, *(root / name for name in names)]


def _coco_picture(name: str, places: Sequence[Path], file: Path) -> Path:
    for place in places:
        if (place / name).is_file():
            return place / name
    raise ValueError(f"{file} names {name}, which is in none of {', '.join(dict.fromkeys(map(str, places)))}")
