"""What our builders of pictures with masks share: bytes are kept as found, and each pair is checked once.

A mask is a picture of one channel, of the size of its picture: a class number a pixel, or the builder's `void` where
no class is given.
"""

import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from research.data import image_files, images
from research.data.builders.pictures import PictureBuilder, undecodable
from research.data.views import VOID, size_of


class Labelled(NamedTuple):
    """The bytes of a picture and of its mask. The stored order hashes `member`, which is kept as its name."""

    archive: Path | str
    member: str
    encoded: bytes
    mask: bytes
    mask_path: str

    @property
    def path(self) -> str:
        """What names the picture to a person."""
        return f"{self.archive}/{self.member}"


class MaskBuilder(PictureBuilder, skip_registration=True):
    """A TFDS builder of (image, mask, name) examples.

    `class_names` are those of the numbers 0, 1, ...; `colours` are theirs in drawings, as "#rrggbb", or empty.
    """

    class_names: Sequence[str] = ()
    colours: Sequence[str] = ()
    void = VOID
    shape: tuple[int | None, int | None, int] = (None, None, 3)

    def __init__(self, **kwargs):
        self._lock = threading.Lock()  # pictures are checked in threads
        super().__init__(**kwargs)

    def _info(self):
        features = {
            "image": tfds.features.Image(shape=self.shape),
            "mask": tfds.features.Image(shape=(*self.shape[:2], 1)),
            "name": tfds.features.Text(),
        }
        # The largest height and width, and the pixels of each class in train; known when it is prepared.
        metadata = tfds.core.MetadataDict(largest=[0, 0], pixels=[0] * len(self.class_names))
        return tfds.core.DatasetInfo(
            builder=self, description=__doc__, features=tfds.features.FeaturesDict(features), metadata=metadata
        )

    def _generate_examples(self, split: str, pictures: Iterable[Labelled]) -> Iterator[tuple[str, dict]]:
        self._counting = split == "train"
        yield from super()._generate_examples(split, pictures)

    def example(self, picture: Labelled) -> dict[str, Any]:
        """See PictureBuilder."""
        return {"image": picture.encoded, "mask": picture.mask, "name": picture.member}

    def problem(self, picture: Labelled) -> str | None:
        """See PictureBuilder: a mask must be of its picture's size and hold nothing but classes and `void`."""
        if problem := undecodable(lambda: images.decode(picture.encoded, self.channels)):
            return problem
        try:
            mask = image_files.decode_mask(picture.mask)
        except ValueError as error:
            return f"has the mask {picture.mask_path}, which {error}"
        size = size_of(images.decode(picture.encoded, self.channels))
        if mask.shape != size:
            height, width = mask.shape
            return f"is {size[1]} x {size[0]} px, but its mask {picture.mask_path} is {width} x {height} px"
        counts = np.bincount(mask.ravel(), minlength=256)
        known = len(self.class_names)
        wrong = [value for value in np.flatnonzero(counts) if value >= known and value != self.void]
        if wrong:
            return (
                f"has the mask {picture.mask_path}, which holds the number {wrong[0]}; the {known} classes are 0 to "
                f"{known - 1}, and {self.void} is void"
            )
        self._note(size, counts[:known])
        return None

    def _note(self, size: tuple[int, int], counts: np.ndarray) -> None:
        with self._lock:
            metadata = self.info.metadata
            metadata["largest"] = [max(pair) for pair in zip(metadata["largest"], size, strict=True)]
            if self._counting:
                metadata["pixels"] = [int(a + b) for a, b in zip(metadata["pixels"], counts, strict=True)]

    def summary(self) -> str:
        """What is worth knowing when weights of classes are chosen: the share of each among the pixels."""
        pixels = np.array(self.info.metadata["pixels"])
        shares = (f"{name} {share:.1%}" for name, share in zip(self.class_names, pixels / pixels.sum(), strict=True))
        return f"pixels of train: {', '.join(shares)}"
