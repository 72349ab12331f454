"""BCCD (github.com/Shenggan/BCCD_Dataset): blood cells under a microscope, in Pascal VOC's layout.

Reads BCCD.zip: `BCCD/JPEGImages/NAME.jpg`, `BCCD/Annotations/NAME.xml` and `BCCD/ImageSets/Main/SPLIT.txt`.
"""

import zipfile
from collections.abc import Iterator
from pathlib import Path

from research.data.builders.archives import damage_named
from research.data.images.builders import voc
from research.data.images.builders.boxes import BoxBuilder, Boxed

ARCHIVE = "BCCD.zip"


class BccdVoc(BoxBuilder, skip_registration=True):
    """Splits of 205 / 87 / 72 images, as in its ImageSets."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = f"{ARCHIVE}, as experiments/detection/README.md describes it"
    archives = (ARCHIVE,)
    class_names = ("RBC", "WBC", "Platelets")

    def _split_generators(self, dl_manager):
        archive = Path(dl_manager.manual_dir) / ARCHIVE
        parts = {"train": "train", "validation": "val", "test": "test"}
        return {split: self._generate_examples(split, _images(archive, part)) for split, part in parts.items()}


def _images(archive: Path, part: str) -> Iterator[Boxed]:
    with damage_named(archive), zipfile.ZipFile(archive) as members:
        known = set(members.namelist())
        for name in members.read(f"BCCD/ImageSets/Main/{part}.txt").decode().split():
            image, annotation = f"BCCD/JPEGImages/{name}.jpg", f"BCCD/Annotations/{name}.xml"
            for member in (image, annotation):
                if member not in known:
                    raise ValueError(f"{archive} lists {name} in {part}.txt, but has no {member}; fetch it again")
            _, objects, size = voc.parse(members.read(annotation), f"{archive}/{annotation}")
            yield Boxed(archive, image, members.read(image), objects, annotation, size)
