"""A user's own folder of images and masks, and the folders of Cityscapes (Cordts et al., 2016).

    PATH/classes.txt                             the name of class 0, 1, ... on each line, optionally a tab and #rrggbb
    PATH/{train,validation,test}/images/NAME.*   images; `val` and `valid` are `validation`
    PATH/{train,validation,test}/masks/NAME.png  their masks: class numbers, 255 is void

If PATH itself holds `images` and `masks`, validation and test are held out of them. Cityscapes needs no classes.txt:
its images are leftImg8bit/SPLIT/CITY/NAME_leftImg8bit.png and its masks gtFine/SPLIT/CITY/NAME_gtFine_*.png, where * is
labelTrainIds, or labelIds, which are converted. Its test split has no public masks: `val` is the test split.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from research.data.builders import folder_files, text_files
from research.data.images import files as image_files
from research.data.images.builders.masks import MaskBuilder, MaskedImage, encode_mask
from research.data.images.views import VOID, Size

CLASSES_FILE = "classes.txt"
CITYSCAPES = {  # class -> its number among labelIds, and its colour
    "road": (7, "#804080"), "sidewalk": (8, "#f423e8"), "building": (11, "#464646"), "wall": (12, "#66669c"),
    "fence": (13, "#be9999"), "pole": (17, "#999999"), "traffic light": (19, "#faaa1e"),
    "traffic sign": (20, "#dcdc00"), "vegetation": (21, "#6b8e23"), "terrain": (22, "#98fb98"), "sky": (23, "#4682b4"),
    "person": (24, "#dc143c"), "rider": (25, "#ff0000"), "car": (26, "#00008e"), "truck": (27, "#000046"),
    "bus": (28, "#003c64"), "train": (31, "#005064"), "motorcycle": (32, "#0000e6"), "bicycle": (33, "#770b20"),
}  # fmt: skip


class MaskPair(NamedTuple):
    """An image and its mask below the root; `mapped`: the mask holds labelIds of Cityscapes."""

    image: Path
    mask: Path
    mapped: bool = False


class MaskFolder(MaskBuilder, skip_registration=True):
    """The pairs below `root`, prepared under a digest of its path and of the names, sizes and times of its files."""

    VERSION = tfds.core.Version("2.0.0")  # 1.0.0 ignored the EXIF orientation

    def __init__(self, root: Path, splits: Mapping[str, Sequence[MaskPair]], classes: Mapping[str, str], **kwargs):
        self._root, self._splits = root, splits
        self.class_names, self.colours = tuple(classes), tuple(classes.values())
        super().__init__(**kwargs)

    @classmethod
    def of(cls, path: str, data_dir: Path) -> "MaskFolder":
        """The builder of the folder `path`. Raises ValueError for an image without mask or a mask without image."""
        root = Path(path).expanduser().resolve()
        splits, classes = find(root)
        files = {split: [file for pair in pairs for file in pair[:2]] for split, pairs in splits.items()}
        config = tfds.core.BuilderConfig(
            name=folder_files.digest(root, files, [CLASSES_FILE]), description=f"The folder {root}."
        )
        return cls(root, splits, classes, config=config, data_dir=data_dir, file_format="array_record")

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(split, read(self._root, each)) for split, each in self._splits.items()}

    def largest(self) -> Size | None:
        """The largest height and width of the images, by their headers; None if no header can be read."""
        paths = (self._root / pair.image for pairs in self._splits.values() for pair in pairs)
        sizes = [size for path in paths if (size := image_files.size(path))]
        return (max(height for height, _ in sizes), max(width for _, width in sizes)) if sizes else None


class CityscapesFine(MaskBuilder, skip_registration=True):
    """The 19 classes of Cityscapes with fine masks: `val` (500) is the test split, `train` (2,975) the others."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = "the folders leftImg8bit and gtFine of cityscapes-dataset.com"
    class_names = tuple(CITYSCAPES)
    colours = tuple(colour for _, colour in CITYSCAPES.values())
    shape = (1024, 2048, 3)

    def _split_generators(self, dl_manager):
        root = Path(dl_manager.manual_dir)
        if not holds_cityscapes(root):
            raise ValueError(f"{root} lacks leftImg8bit/train and gtFine/train; --manual_dir must be their folder")
        return {split: self._generate_examples(split, read(root, pairs)) for split, pairs in find(root)[0].items()}


def holds_masks(path: str) -> bool:
    """Whether the folder `path` has the layout of images with masks."""
    root = Path(path).expanduser()
    return holds_cityscapes(root) or any(
        (path / "images").is_dir() and (path / "masks").is_dir()
        for path in (root, *folder_files.split_folders(root).values())
    )


def holds_cityscapes(root: Path) -> bool:
    """Whether `root` has the layout of Cityscapes."""
    return (root / "leftImg8bit/train").is_dir() and (root / "gtFine/train").is_dir()


def find(root: Path) -> tuple[dict[str, list[MaskPair]], dict[str, str]]:
    """The pairs of each split, sorted, and the classes with their colours ("": none)."""
    if holds_cityscapes(root):
        parts = {"train": "train", "test": "val"}
        splits = {split: _cityscapes_pairs(root, part) for split, part in parts.items()}
        return splits, {name: colour for name, (_, colour) in CITYSCAPES.items()}
    folders = folder_files.split_folders(root) or {"train": root}
    splits = {split: _pairs(root, path) for split, path in folders.items()}
    return splits, _classes(root / CLASSES_FILE)


def read(root: Path, pairs: Sequence[MaskPair]) -> Iterator[MaskedImage]:
    """Yields each pair with its bytes."""
    for pair in pairs:
        mask = (root / pair.mask).read_bytes()
        mask = _train_ids(mask) if pair.mapped else mask
        yield MaskedImage(root, str(pair.image), (root / pair.image).read_bytes(), mask, str(root / pair.mask))


def _pairs(root: Path, path: Path) -> list[MaskPair]:
    suffixes = image_files.suffixes()
    files = {}
    for part in ("images", "masks"):
        found = folder_files.files(path / part, suffixes)
        deeper = [file for below in (path / part).glob("[!.]*/") for file in folder_files.files(below, suffixes)]
        if deeper:
            raise ValueError(
                f"{deeper[0]} is in a subfolder, which is not read ({len(deeper)} such); move it into {path / part}"
            )
        files[part] = {file.stem: file.relative_to(root) for file in found}
        if len(files[part]) < len(found):
            raise ValueError(f"{path / part} holds files that differ only in their suffixes; keep one of each name")
    for part, other in (("images", "masks"), ("masks", "images")):
        alone = sorted(files[part].keys() - files[other].keys())
        if alone:
            what = "an image" if part == "images" else "a mask"
            raise ValueError(
                f"{root / files[part][alone[0]]} is {what} without {other[:-1]} {path / other / alone[0]}.* "
                f"({len(alone)} such)"
            )
    if not files["images"]:
        raise ValueError(f"{path}/images holds no images; expected images/NAME.jpg and masks/NAME.png")
    return [MaskPair(image, files["masks"][stem]) for stem, image in files["images"].items()]


def _cityscapes_pairs(root: Path, part: str) -> list[MaskPair]:
    pairs = []
    for image in sorted((root / "leftImg8bit" / part).glob("*/*_leftImg8bit.png")):
        start = image.name.removesuffix("_leftImg8bit.png")
        folder = root / "gtFine" / part / image.parent.name
        train_ids, label_ids = (folder / f"{start}_gtFine_{kind}.png" for kind in ("labelTrainIds", "labelIds"))
        mask = train_ids if train_ids.is_file() else label_ids
        if not mask.is_file():
            raise ValueError(f"{image} is an image without mask {train_ids.relative_to(root)} or {label_ids.name}")
        pairs.append(MaskPair(image.relative_to(root), mask.relative_to(root), mapped=mask == label_ids))
    if not pairs:
        raise ValueError(f"{root}/leftImg8bit/{part} holds no images; expected CITY/NAME_leftImg8bit.png")
    return pairs


def _train_ids(encoded: bytes) -> bytes:
    table = np.full(256, VOID, np.uint8)
    table[[number for number, _ in CITYSCAPES.values()]] = range(len(CITYSCAPES))
    return encode_mask(table[image_files.decode_mask(encoded)])


def _classes(file: Path) -> dict[str, str]:
    if not file.is_file():
        raise ValueError(f"{file} is missing; it names class 0, 1, ... of the masks, one on each line")
    classes = {}
    for number, line in enumerate(text_files.text(file).splitlines(), start=1):
        name, _, colour = (part.strip() for part in line.partition("\t"))
        if not name or name in classes or (colour and not re.fullmatch("#[0-9a-fA-F]{6}", colour)):
            raise ValueError(
                f"{file}, line {number} is {line!r}; it must be a unique class name, optionally with a tab and #rrggbb"
            )
        classes[name] = colour
    if not 2 <= len(classes) <= VOID:
        raise ValueError(f"{file} lists {len(classes)} classes; 2 to {VOID} are allowed, since {VOID} is void")
    return classes
