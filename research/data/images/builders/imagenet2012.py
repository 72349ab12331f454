"""ILSVRC 2012 (Russakovsky et al. 2015) from its original archives. The builder of the TFDS catalogue needs TensorFlow.

    ILSVRC2012_img_train.tar         one tar archive per class, nXXXXXXXX.tar, of nXXXXXXXX_N.JPEG
    ILSVRC2012_img_val.tar           ILSVRC2012_val_NNNNNNNN.JPEG
    ILSVRC2012_devkit_t12.tar.gz     the labels of the latter, and the synset that each label means

Classes are sorted by their synset ids, as is usual.
"""

import importlib.resources
import re
from collections.abc import Iterator
from pathlib import Path

from research.data.builders.archives import tar_members
from research.data.images.builders.labelled import EncodedImage, ImageBuilder

TRAIN, TEST, DEVKIT = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar", "ILSVRC2012_devkit_t12.tar.gz"
HELD_OUT_OF = 100  # every hundredth image of a class, beginning with the first, is for validation


class Imagenet2012(ImageBuilder, skip_registration=True):
    """Train and validation are 99% and 1% of the official training images; test is the official validation split."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = f"{TRAIN}, {TEST} and {DEVKIT} of image-net.org"
    archives = (TRAIN, TEST, DEVKIT)

    def _info(self):
        labels = importlib.resources.files("tensorflow_datasets") / "datasets/imagenet2012/labels.txt"
        return self.image_info(__doc__, (None, None, 3), labels.read_text().split())

    def _split_generators(self, dl_manager):
        folder = Path(dl_manager.manual_dir)
        labels = _test_labels(folder / DEVKIT)
        parts = {
            "train": self._train_images(folder / TRAIN, held_out=False),
            "validation": self._train_images(folder / TRAIN, held_out=True),
            "test": _test_images(folder / TEST, labels),
        }
        return {name: self._generate_examples(name, images) for name, images in parts.items()}

    def _train_images(self, archive: Path, held_out: bool) -> Iterator[EncodedImage]:
        known = set(self.info.features["label"].names)
        for inner, file in tar_members(archive, str(archive)):
            synset = Path(inner).stem
            if synset not in known:
                raise ValueError(f"{archive} holds {inner}, which is not among the {len(known)} classes of ILSVRC 2012")
            for position, (name, image) in enumerate(tar_members(file, f"{archive}/{inner}")):
                if (position % HELD_OUT_OF == 0) == held_out:
                    yield EncodedImage(f"{archive}/{inner}", name, image.read(), synset)


def _test_labels(devkit: Path) -> list[str]:
    """The synset of test image 1, 2, ..."""
    import scipy.io

    synsets, numbers = None, None
    for name, file in tar_members(devkit, str(devkit)):
        if name.endswith("data/meta.mat"):
            entries = scipy.io.loadmat(file, squeeze_me=True, struct_as_record=False)["synsets"]
            synsets = {entry.ILSVRC2012_ID: entry.WNID for entry in entries if entry.num_children == 0}
        if name.endswith("data/ILSVRC2012_validation_ground_truth.txt"):
            numbers = [int(line) for line in file.read().split()]
    if synsets is None or numbers is None:
        raise ValueError(f"{devkit} lacks data/meta.mat or data/ILSVRC2012_validation_ground_truth.txt; fetch it again")
    return [synsets[number] for number in numbers]


def _test_images(archive: Path, labels: list[str]) -> Iterator[EncodedImage]:
    for name, file in tar_members(archive, str(archive)):
        found = re.search(r"_(\d+)\.JPEG$", name)
        assert found is not None, name
        yield EncodedImage(archive, name, file.read(), labels[int(found[1]) - 1])
