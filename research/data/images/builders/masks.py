"""Base class of the builders of images with masks: the encoded bytes are stored, and each pair is checked once.

A mask is an image of one channel with the size of its image: a class index per pixel, or the builder's `void`. If an
image has an EXIF orientation, the size of its mask tells whether the mask refers to the upright or to the stored image;
if both fit, to the upright one. Upright masks are stored.
"""

import io
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from research.data.images import files as image_files
from research.data.images import transforms
from research.data.images.builders.labelled import ImageBuilder
from research.data.images.views import VOID, Size, size_of


class MaskedImage(NamedTuple):
    """The bytes of an image and of its mask. TFDS orders images by the hash of `member`, the name of the image."""

    archive: Path | str
    member: str
    encoded: bytes
    mask: bytes
    mask_path: str

    @property
    def path(self) -> str:
        """The name of the image, for messages."""
        return f"{self.archive}/{self.member}"


class MaskBuilder(ImageBuilder, skip_registration=True):
    """A TFDS builder of (image, mask, name) examples.

    `class_names` are those of the indices 0, 1, ...; `colours` for plots are "#rrggbb" or empty.
    """

    class_names: Sequence[str] = ()
    colours: Sequence[str] = ()
    void = VOID
    shape: tuple[int | None, int | None, int] = (None, None, 3)

    def __init__(self, **kwargs):
        self._lock = threading.Lock()  # images are checked in threads
        super().__init__(**kwargs)

    def _info(self):
        features = {
            "image": tfds.features.Image(shape=self.shape),
            "mask": tfds.features.Image(shape=(*self.shape[:2], 1)),
            "name": tfds.features.Text(),
        }
        # The largest height and width, and the pixels of each class in train; filled while preparing.
        metadata = tfds.core.MetadataDict(largest=[0, 0], pixels=[0] * len(self.class_names))
        return tfds.core.DatasetInfo(
            builder=self, description=__doc__, features=tfds.features.FeaturesDict(features), metadata=metadata
        )

    def _generate_examples(self, split: str, images: Iterable[MaskedImage]) -> Iterator[tuple[str, dict]]:
        self._counting = split == "train"
        yield from super()._generate_examples(split, images)

    def example(self, image: MaskedImage) -> dict[str, Any]:
        """See ImageBuilder."""
        mask = image.mask
        if image_files.orientation(image.encoded) >= 5:
            mask = encode_mask(_upright(image_files.decode_mask(mask), image, self._size(image)))
        return {"image": image.encoded, "mask": mask, "name": image.member}

    def _size(self, image: MaskedImage) -> Size:
        return size_of(transforms.decode(image.encoded, self.channels))

    def problem(self, image: MaskedImage) -> str | None:
        """See ImageBuilder; a mask must have its image's size and hold only class numbers and `void`."""
        try:
            size = self._size(image)
        except ValueError as error:
            return str(error)
        try:
            mask = image_files.decode_mask(image.mask)
        except ValueError as error:
            return f"has the mask {image.mask_path}, which {error}"
        if _upright(mask, image, size).shape != size:
            height, width = mask.shape
            return f"is {size[1]} x {size[0]} px, but its mask {image.mask_path} is {width} x {height} px"
        counts = np.bincount(mask.ravel(), minlength=256)
        known = len(self.class_names)
        wrong = [value for value in np.flatnonzero(counts) if value >= known and value != self.void]
        if wrong:
            return (
                f"has the mask {image.mask_path}, which holds the class index {wrong[0]}; the {known} classes are 0 to "
                f"{known - 1}, and {self.void} is void"
            )
        self._count(size, counts[:known])
        return None

    def _count(self, size: tuple[int, int], counts: np.ndarray) -> None:
        with self._lock:
            metadata = self.info.metadata
            metadata["largest"] = [max(pair) for pair in zip(metadata["largest"], size, strict=True)]
            if self._counting:
                metadata["pixels"] = [int(a + b) for a, b in zip(metadata["pixels"], counts, strict=True)]

    def summary(self) -> str:
        """The share of each class among the pixels of train, for the choice of class weights."""
        pixels = np.array(self.info.metadata["pixels"])
        if not pixels.any():
            return "pixels of train: all void, none has a class"
        shares = (f"{name} {share:.1%}" for name, share in zip(self.class_names, pixels / pixels.sum(), strict=True))
        return f"pixels of train: {', '.join(shares)}"


def _upright(mask: np.ndarray, image: MaskedImage, size: Size) -> np.ndarray:
    """The mask in coordinates of the upright image, which has `size`."""
    orientation = image_files.orientation(image.encoded)
    if mask.shape == size or orientation < 5 or mask.shape != size[::-1]:
        return mask
    return np.asarray(Image.fromarray(mask).transpose(image_files.UPRIGHT[orientation]))


def encode_mask(mask: np.ndarray) -> bytes:
    """The class numbers uint8 [height, width] as a PNG."""
    buffer = io.BytesIO()
    Image.fromarray(mask).save(buffer, format="PNG")
    return buffer.getvalue()
