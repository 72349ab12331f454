"""Base class of the builders of labelled images: the encoded bytes are stored, and each image is checked once."""

import concurrent.futures
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import tensorflow_datasets as tfds

from research.data.builders.own import OwnBuilder
from research.data.images import transforms
from research.data.images.builders.copies import Copies
from research.measure import progress

CHUNK = 256  # images checked in parallel


class EncodedImage(NamedTuple):
    """An encoded image. TFDS orders images by the hash of `member`, so the folder of `archive` has no influence."""

    archive: Path | str
    member: str
    encoded: bytes
    label: str
    more: Mapping[str, Any] = {}  # further fields of its example

    @property
    def path(self) -> str:
        """The name of the image, for messages."""
        return f"{self.archive}/{self.member}"


class ImageBuilder(OwnBuilder, skip_registration=True):
    """A TFDS builder of (image, label) examples that are prepared without TensorFlow.

    `archives` are the files that must be in `manual_dir`, see MANUAL_DOWNLOAD_INSTRUCTIONS. `skip_undecodable` is set
    by `prepare`; `skipped` collects the images that are left out, with the reasons, `copies` the duplicates.
    """

    VERSION = tfds.core.Version("1.0.0")
    archives: Sequence[str] = ()
    skip_undecodable = False
    channels = 3

    def __init__(self, **kwargs):
        self.skipped: list[str] = []
        self.copies = Copies()
        super().__init__(**kwargs)

    def image_info(
        self,
        description: str | None,
        shape: tuple,
        class_names: Sequence[str],
        more: Mapping[str, Any] | None = None,
        **info,
    ) -> tfds.core.DatasetInfo:
        """The TFDS metadata of labelled images.

        Args:
            description: Of the data set.
            shape: [height, width, channels]; None: varies.
            class_names: In the order of their numbers.
            more: The features of EncodedImage.more.
            **info: Further arguments of DatasetInfo.
        """
        features = {"image": tfds.features.Image(shape=shape), "label": tfds.features.ClassLabel(names=class_names)}
        return tfds.core.DatasetInfo(
            builder=self,
            description=description,
            features=tfds.features.FeaturesDict({**features, **(more or {})}),
            supervised_keys=("image", "label"),
            **info,
        )

    def _generate_examples(self, split: str, images: Iterable) -> Iterator[tuple[str, dict]]:
        shown = progress.over(images, f"{self.name} {split}", "images")
        for image, problem in _checked(shown, self.problem):
            if problem is None:
                self.copies.add(split, image.member, image.encoded)
                yield image.member, self.example(image)
            elif self.skip_undecodable:
                self.skipped.append(f"{image.path} {problem}")
            else:
                raise ValueError(f"{image.path} {problem}; fix it, or prepare with --skip_undecodable")

    def example(self, image: Any) -> dict[str, Any]:
        """The stored example of a valid image."""
        return {"image": image.encoded, "label": image.label, **image.more}

    def problem(self, image: Any) -> str | None:
        """The problem of an image, as the end of a sentence that begins with its path; None if it is valid."""
        return undecodable(lambda: transforms.decode(image.encoded, self.channels))


def undecodable(decode: Callable[[], Any]) -> str | None:
    """The reason why `decode` fails, as the end of a sentence that begins with the name; None if it succeeds."""
    try:
        decode()
    except ValueError as error:
        return str(error)
    return None


def _checked(images: Iterable, problem: Callable[[Any], str | None]) -> Iterator[tuple[Any, str | None]]:
    """Every image with its `problem`, in threads, since Pillow releases the interpreter lock."""
    images = iter(images)
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        while chunk := list(itertools.islice(images, CHUNK)):
            yield from zip(chunk, pool.map(problem, chunk), strict=True)
