"""What our builders of faces share: people in place of classes, and pairs of images that are verified."""

import re
import zipfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import ClassVar

import tensorflow_datasets as tfds

from research.data.builders import text_files
from research.data.builders.archives import damage_named
from research.data.images import pairs as pairs_lib
from research.data.images.builders.labelled import EncodedImage, ImageBuilder

TEXT = tfds.features.Text()


class FaceBuilder(ImageBuilder, skip_registration=True):
    """A builder of labelled images with their `path`, and a text for each of `columns`, by which scores are grouped.

    The metadata of the prepared set hold `known`, how many of the people are trained on (the first ones), and `pairs`:
    split -> pairs (see data/pairs.py) of that split's images.
    """

    columns: Sequence[str] = ()

    def face_info(
        self, shape: tuple, known: Collection[str], unseen: Collection[str] = (), columns: Sequence[str] = ()
    ) -> tfds.core.DatasetInfo:
        """The TFDS metadata of images of `shape` of people who are trained on, and of people who are not."""
        return self.image_info(
            self.__doc__,
            shape,
            [*known, *unseen],
            more=dict.fromkeys(("path", *columns), TEXT),
            metadata=tfds.core.MetadataDict(known=len(known), pairs={}),
        )

    def keep_pairs(self, split: str, pairs: Sequence[pairs_lib.ImagePair]) -> None:
        """Stores the pairs of a split beside the images; to be called while these are made."""
        self.info.metadata["pairs"][split] = [list(pair) for pair in pairs]


class ZippedFaces(FaceBuilder, skip_registration=True):
    """Images of people in a zip archive, and a file of pairs of people who are not to be trained on.

    identification   everybody is trained on, and recognised in other images
    verification     only those who are in no pair are trained on; the test split is the others

    A subclass says how members of the archive are named, and which images of somebody known are not trained on.
    """

    BUILDER_CONFIGS = [  # noqa: RUF012  TFDS reads it from the class.
        tfds.core.BuilderConfig(name=name) for name in ("identification", "verification")
    ]
    channels = 1
    shape: tuple[int, int, int]
    people: Sequence[str]
    unseen: Sequence[str]  # in the configuration `verification`
    member: ClassVar[re.Pattern]  # with the group `person`

    def split(self, position: int) -> str:
        """The split of `identification` where the image at `position` of the sorted ones of a person belongs."""
        raise NotImplementedError

    def held_out(self, position: int) -> bool:
        """Whether that image of a known person is for validation in `verification`: of two at least."""
        raise NotImplementedError

    def values(self, member: str) -> Mapping[str, str]:
        """The text of each of `columns` for an image."""
        return {}

    def order(self, member: str) -> tuple:
        """What the images of a person are sorted by."""
        return (member,)

    def _info(self):
        unseen = self.unseen if self.builder_config.name == "verification" else ()
        known = [person for person in self.people if person not in unseen]
        return self.face_info(self.shape, known, unseen, self.columns)

    def _split_generators(self, dl_manager):
        archive, pairs_file = (Path(dl_manager.manual_dir) / name for name in self.archives)
        members = self._members(archive)
        parts = {"train": [], "validation": [], "test": []}
        for person, images in members.items():
            for position, member in enumerate(images):
                parts[self._part(person, position)].append((member, person))
        if self.builder_config.name == "verification":
            pairs = pairs_lib.read_csv(text_files.text(pairs_file), str(pairs_file))
            pairs_lib.check(pairs, {member for member, _ in parts["test"]}, str(pairs_file))
            self.keep_pairs("test", pairs)
        return {split: self._generate_examples(split, self._read(archive, part)) for split, part in parts.items()}

    def _part(self, person: str, position: int) -> str:
        if self.builder_config.name == "identification":
            return self.split(position)
        if person in self.unseen:
            return "test"
        return "validation" if self.held_out(position) else "train"

    def _members(self, archive: Path) -> dict[str, list[str]]:
        """Person -> their images, sorted. Raises ValueError where somebody has none."""
        found = {person: [] for person in self.people}
        with damage_named(archive), zipfile.ZipFile(archive) as members:
            for name in members.namelist():
                if match := self.member.fullmatch(name):
                    found.setdefault(match["person"], []).append(name)
        if missing := [person for person in self.people if not found[person]]:
            raise ValueError(f"{archive} lacks the images of {', '.join(missing)}; fetch it again")
        if strangers := found.keys() - set(self.people):
            raise ValueError(f"{archive} holds images of unknown people, {', '.join(sorted(strangers))}")
        return {person: sorted(names, key=self.order) for person, names in found.items()}

    def _read(self, archive: Path, part: Sequence[tuple[str, str]]) -> Iterator[EncodedImage]:
        with damage_named(archive), zipfile.ZipFile(archive) as members:
            for member, person in part:
                more = {"path": member, **self.values(member)}
                yield EncodedImage(archive, member, members.read(member), person, more)


def number_of(member: str) -> int:
    """The number that a file is named by."""
    return int(PurePosixPath(member).stem)
