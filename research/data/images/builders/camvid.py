"""CamVid with the 11 classes of SegNet, 240 x 180 px (Brostow et al. 2009; Badrinarayanan et al. 2017).

Reads camvid_240x180.zip: images `SPLIT/NAME.jpg`, masks `SPLITannot/NAME.png`, and `SPLIT.txt` with an image and its
mask on each line, for the splits train, val and test.
"""

import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import tensorflow_datasets as tfds

from research.data.builders.archives import damage_named
from research.data.images.builders.masks import MaskBuilder, MaskedImage

ARCHIVE = "camvid_240x180.zip"
DRIVE = "0006R0"  # in the names of the images of validation
CLASSES = {  # with the colours of SegNet
    "sky": "#808080", "building": "#800000", "pole": "#c0c080", "road": "#804080", "pavement": "#3c28de",
    "tree": "#808000", "sign": "#c08080", "fence": "#404080", "car": "#400080", "pedestrian": "#404000",
    "bicyclist": "#0080c0",
}  # fmt: skip


class Camvid(MaskBuilder, skip_registration=True):
    """Splits of 367 / 101 / 233; test is that of SegNet.

    SegNet's validation split is a part of drive 0016E5, of which other images are in train. Here validation is a whole
    drive, 0006R0 (101 images), and train the rest of SegNet's train and validation splits, so that validation measures
    generalisation to an unseen drive.
    """

    VERSION = tfds.core.Version("2.0.0")  # 1.0.0 had SegNet's validation split

    MANUAL_DOWNLOAD_INSTRUCTIONS = f"{ARCHIVE}, as experiments/driving_segmentation/README.md describes it"
    archives = (ARCHIVE,)
    class_names = tuple(CLASSES)
    colours = tuple(CLASSES.values())
    void = 11
    shape = (180, 240, 3)

    def _split_generators(self, dl_manager):
        archive = Path(dl_manager.manual_dir) / ARCHIVE
        parts = {"train": ("train", "val"), "validation": ("train", "val"), "test": ("test",)}
        of = lambda split: lambda name: split == "test" or (DRIVE in name) == (split == "validation")
        return {
            split: self._generate_examples(split, _pairs(archive, names, of(split))) for split, names in parts.items()
        }


def _pairs(archive: Path, parts: Sequence[str], wanted: Callable[[str], bool]) -> Iterator[MaskedImage]:
    """The images in the lists `parts` of the archive for whose name `wanted` is true, with their masks."""
    with damage_named(archive), zipfile.ZipFile(archive) as members:
        known = set(members.namelist())
        for part in parts:
            for line in members.read(f"{part}.txt").decode().splitlines():
                image, mask = line.split()
                for name in (image, mask):
                    if name not in known:
                        raise ValueError(
                            f"{archive}/{part}.txt lists {name}, which is not in the archive; fetch it again"
                        )
                if wanted(image):
                    yield MaskedImage(archive, image, members.read(image), members.read(mask), f"{archive}/{mask}")
