"""A user's own folder of images and boxes, in the layout of Pascal VOC or COCO.

VOC    PATH/{JPEGImages,images}/NAME.*, PATH/{Annotations,annotations}/NAME.xml, and optionally
       PATH/ImageSets/Main/{train,val,trainval,test}.txt with a NAME on each line; or images and .xml in
       PATH/{train,val,test} or in PATH itself
COCO   PATH/annotations/*.json, one with train, one with val or test as a word of its name, and their images in PATH, in
       PATH/images or in folders of these named like the split (train2017); or a .json beside the images or the folder
       of images, in PATH/{train,val,test} or in PATH itself (the result.json of Label Studio)

The classes are those that occur, sorted by name (VOC) or id (COCO). Missing splits are held out of train. File names
must not point outside PATH.
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import tensorflow_datasets as tfds

from research.data.builders import folder_files, text_files
from research.data.builders.class_folders import SPLIT_NAMES
from research.data.images import files as image_files
from research.data.images.builders import coco, voc
from research.data.images.builders.boxes import BoxBuilder, Boxed, Object
from research.data.images.views import Size

ANNOTATIONS, IMAGES = ("Annotations", "annotations"), ("JPEGImages", "images")
UNUSED = "images without annotation or not listed"


class Annotated(NamedTuple):
    """An image, its objects, and the annotation file."""

    image: Path
    objects: Sequence[Object]
    annotation: Path
    size: Size | None  # as annotated; None where it is not


Found = dict[str, list[Annotated]]


class BoxFolder(BoxBuilder, skip_registration=True):
    """The images below `root`, prepared under a digest of its path and of the names, sizes and times of its files."""

    VERSION = tfds.core.Version("2.0.0")  # 1.0.0 ignored the EXIF orientation

    def __init__(self, root: Path, splits: Mapping[str, Sequence[Annotated]], class_names: Sequence[str], **kwargs):
        self._root, self._splits, self.class_names = root, splits, tuple(class_names)
        super().__init__(**kwargs)

    @classmethod
    def of(cls, path: str, data_dir: Path) -> "BoxFolder":
        """The builder of the folder `path`. Raises ValueError for an annotation without its image or a bad entry."""
        root = Path(path).expanduser().resolve()
        splits, class_names = find(root)
        files = {
            split: sorted({file for each in images for file in (each.image, each.annotation)})
            for split, images in splits.items()
        }
        config = tfds.core.BuilderConfig(name=folder_files.digest(root, files), description=f"The folder {root}.")
        return cls(root, splits, class_names, config=config, data_dir=data_dir, file_format="array_record")

    def _split_generators(self, dl_manager):
        if unused := _unused(self._root, self._splits):
            self.left_out = {UNUSED: unused}  # for the summary of `prepare`
        return {split: self._generate_examples(split, read(self._root, each)) for split, each in self._splits.items()}


def holds_boxes(path: str) -> bool:
    """Whether the folder `path` has the layout of images with boxes."""
    root = Path(path).expanduser()
    return bool(_voc_folder(root) or _coco_files(root)) or any(map(_xml_files, _voc_folders(root).values()))


def find(root: Path) -> tuple[Found, list[str]]:
    """The images of each split, and the names of the classes."""
    files = _coco_files(root)
    splits, names = _find_coco(root, files) if files else _find_voc(root)
    for split, images in splits.items():
        if not images:
            what = str(files[split]) if files else f"{root}, where NAME.xml beside images is expected,"
            raise ValueError(f"{what} holds no annotations for {split}")
    if not names:
        raise ValueError(f"{root} holds no boxes, only annotations of images without any")
    _check_once(splits)
    return splits, names


def _check_once(splits: Found) -> None:
    """Raises ValueError for an image with two entries in a split, or in train and another split."""
    trained = {each.image: each.annotation for each in splits.get("train", ())}
    for split, images in splits.items():
        seen = {}
        for each in images:
            if each.image in seen:
                files = " and ".join(dict.fromkeys(map(str, (seen[each.image], each.annotation))))
                raise ValueError(f"{files}: there are two entries for the image {each.image}; keep one")
            if split != "train" and each.image in trained:
                raise ValueError(f"{each.image} is in train and in {split}; keep it in one of them")
            seen[each.image] = each.annotation


def read(root: Path, images: Sequence[Annotated]) -> Iterator[Boxed]:
    """Yields each image with its bytes."""
    for each in images:
        member, annotation = (str(file.relative_to(root)) for file in (each.image, each.annotation))
        yield Boxed(root, member, each.image.read_bytes(), each.objects, annotation, each.size)


def _unused(root: Path, splits: Mapping[str, Sequence[Annotated]]) -> list[Path]:
    """Images in the folders of the data set that have no annotation or are not listed."""
    used = {each.image for images in splits.values() for each in images}
    folders = {image.parent for image in used} | {root / name for name in IMAGES}
    found = {file for each in (*folders, *folder_files.split_folders(root).values()) for file in _image_files(each)}
    return sorted(file.relative_to(root) for file in found - used)


def _image_files(path: Path) -> list[Path]:
    return folder_files.files(path, image_files.suffixes())


def _inside(root: Path, path: Path) -> Path | None:
    """`path` without `..`; None if it points outside `root`."""
    path = Path(os.path.normpath(path))
    return path if path.is_relative_to(root) else None


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # such as a name that is too long
        return False


# ---- Pascal VOC


def _xml_files(path: Path) -> list[Path]:
    return folder_files.files(path, {".xml"})


def _voc_folder(root: Path) -> Path | None:
    """The folder of annotations; None if none holds XML files."""
    return next((root / name for name in ANNOTATIONS if _xml_files(root / name)), None)


def _voc_folders(root: Path) -> dict[str, Path]:
    """Split -> the folder that may hold XML files beside images."""
    return folder_files.split_folders(root) or {"train": root}


def _find_voc(root: Path) -> tuple[Found, list[str]]:
    splits = _voc_splits(root)
    return splits, sorted({each.name for images in splits.values() for one in images for each in one.objects})


def _voc_splits(root: Path) -> Found:
    annotations = _voc_folder(root)
    if annotations is None:
        return {split: _all_annotated(_xml_files(each), each) for split, each in _voc_folders(root).items()}
    images = next((root / name for name in IMAGES if (root / name).is_dir()), None)
    if images is None:
        raise ValueError(f"{annotations} has no images beside it; expected {root}/JPEGImages or {root}/images")
    lists = _voc_lists(root / "ImageSets/Main")
    if not lists:
        return {"train": _all_annotated(_xml_files(annotations), images)}
    return {split: _all_annotated(_listed(root, annotations, file), images) for split, file in lists.items()}


def _voc_lists(path: Path) -> dict[str, Path]:
    """Split -> the list of its annotations."""
    lists = {}
    for file in folder_files.files(path, {".txt"}):
        split = SPLIT_NAMES.get(file.stem.lower())
        if split in lists:
            raise ValueError(f"{lists[split]} and {file} are both lists of {split}; keep one of them")
        if split is not None:
            lists[split] = file
    if not lists.keys() & {"train", "validation"} and (path / "trainval.txt").is_file():
        lists["train"] = path / "trainval.txt"
    return lists


def _listed(root: Path, annotations: Path, file: Path) -> list[Path]:
    """The annotation files of a Pascal VOC image set; class-specific sets have a number (1, -1) after the name."""
    found = []
    for line in filter(None, map(str.strip, text_files.text(file).splitlines())):
        whole, first = (annotations / f"{name}.xml" for name in (line, line.split()[0]))
        path = whole if _is_file(whole) else first
        if _inside(root, path) is None or not _is_file(path):
            raise ValueError(f"{file} lists {line[:100]}, but there is no {path}; add the file or remove the line")
        found.append(path)
    return found


def _all_annotated(files: Sequence[Path], images: Path) -> list[Annotated]:
    """The images in the folder `images` that the XML `files` annotate."""
    by_stem = {}
    for image in _image_files(images):
        by_stem.setdefault(image.stem, []).append(image)
    return [_annotated(file, by_stem) for file in files]


def _annotated(file: Path, by_stem: Mapping[str, Sequence[Path]]) -> Annotated:
    content = voc.parse(file.read_bytes(), str(file))
    name = PurePosixPath(content.file_name.replace("\\", "/"))
    found = by_stem.get(file.stem) or by_stem.get(name.stem, ())
    if len(found) > 1:  # which differ in their suffixes
        found = [each for each in found if each.name == name.name] or found
    if not found:
        raise ValueError(f"{file} is an annotation without its image {content.file_name or file.stem}")
    if len(found) > 1:
        raise ValueError(f"{file} is an annotation of {found[0].name} or {found[1].name}; keep one of them")
    return Annotated(found[0], content.objects, file, content.size)


# ---- COCO


def _coco_files(root: Path) -> dict[str, Path]:
    """Split -> its annotation file. Raises ValueError if a split has two."""
    apart = folder_files.files(root / "annotations", {".json"})
    # COCO's own folder also holds files of key points and captions.
    apart = [each for each in apart if each.name.startswith("instances")] or apart
    named = [(_split_of(file), file) for file in (*apart, *_beside(root))]
    named += [(split, file) for split, each in folder_files.split_folders(root).items() for file in _beside(each)]
    files = {}
    for split, file in named:
        if split in files:
            raise ValueError(
                f"{files[split]} and {file} both annotate {split}; keep one, or put train, val or test in their names"
            )
        files[split] = file
    return files


def _beside(path: Path) -> list[Path]:
    """The annotation files among the .json files in a folder that may hold others."""
    return [
        file
        for file in folder_files.files(path, {".json"})
        if "coco" in file.name.lower() or coco.looks_like_coco(file)
    ]


def _split_of(file: Path) -> str:
    """The split that the file's name contains as a word: `instances_test2017` and `myTest`, but not `latest`."""
    words = {word.lower() for word in re.findall("[A-Z]?[a-z]+|[A-Z]+", file.stem)}
    return next((split for name, split in SPLIT_NAMES.items() if name in words), "train")


def _find_coco(root: Path, files: Mapping[str, Path]) -> tuple[Found, list[str]]:
    found, named = {}, set()
    for split, file in files.items():
        content = coco.read(file)
        named |= {(isinstance(number, str), number, name) for number, name in content.categories.items()}
        folders = _coco_folders(root, file, split)
        found[split] = [
            Annotated(_coco_image(each.file_name, folders, root, file), each.objects, file, each.size)
            for each in content.images
        ]
    used = {each.name for images in found.values() for one in images for each in one.objects}
    # Files may number the same classes differently, or one class twice.
    return found, list(dict.fromkeys(name for *_, name in sorted(named) if name in used))


def _coco_folders(root: Path, file: Path, split: str) -> list[Path]:
    """The folders that may hold the images of an annotation file: `train2017` for `instances_train2017.json`."""
    part = file.stem.rpartition("_")[2]
    apart = [folder_files.split_folders(each).get(split) for each in (root, root / "images")]
    folders = [file.parent, root / part, root / "images" / part, *filter(None, apart), root / "images", root]
    return list(dict.fromkeys(folders))


def _coco_image(name: str, folders: Sequence[Path], root: Path, file: Path) -> Path:
    inside = False
    for each in folders:
        for spelled in dict.fromkeys((name, name.replace("\\", "/"))):  # with the separators of Windows
            path = _inside(root, each / spelled)
            inside = inside or path is not None
            if path is not None and _is_file(path):
                return path
    if not inside:
        raise ValueError(
            f"{file} refers to {name[:200]}, which is outside {root}; names must be relative to that folder"
        )
    raise ValueError(f"{file} refers to {name[:200]}, which is in none of {', '.join(map(str, folders))}")
