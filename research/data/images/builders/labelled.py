"""What our builders of labelled images share: they keep the bytes as found, and check each image once."""

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

CHUNK = 256  # images that wait for the decoders at a time


class EncodedImage(NamedTuple):
    """The bytes of an image as found. The stored order hashes `member`, whatever folder `archive` lies in."""

    archive: Path | str
    member: str
    encoded: bytes
    label: str
    more: Mapping[str, Any] = {}  # further fields of its example

    @property
    def path(self) -> str:
        """What names the image to a person."""
        return f"{self.archive}/{self.member}"


class ImageBuilder(OwnBuilder, skip_registration=True):
    """A TFDS builder of (image, label) examples that are prepared without TensorFlow.

    `archives` are the files that must lie in `manual_dir`, as MANUAL_DOWNLOAD_INSTRUCTIONS says. `skip_undecodable`
    is set by `prepare`; `skipped` collects which images were left out, and why,
    `copies` which occur twice.
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
        """The TFDS metadata of labelled images of `shape` [height, width, channels] (None: it varies).

        `more` are the features of Image.more, `info` further arguments of DatasetInfo.
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
        """What is stored of an image that is good."""
        return {"image": image.encoded, "label": image.label, **image.more}

    def problem(self, image: Any) -> str | None:
        """What is wrong with an image, as the end of a sentence that begins with its path; None when it is good."""
        return undecodable(lambda: transforms.decode(image.encoded, self.channels))


def undecodable(decode: Callable[[], Any]) -> str | None:
    """Why `decode` fails, as the end of a sentence; None when it does not."""
    try:
        decode()
    except ValueError as error:
        return str(error)
    return None


def _checked(images: Iterable, problem: Callable[[Any], str | None]) -> Iterator[tuple[Any, str | None]]:
    """Every image with its `problem`. Pillow decodes outside the interpreter lock: threads."""
    images = iter(images)
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        while chunk := list(itertools.islice(images, CHUNK)):
            yield from zip(chunk, pool.map(problem, chunk), strict=True)
