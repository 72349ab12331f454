"""Base classes of the builders of faces: people as classes, and pairs of images for verification."""

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

FOLDS = 5  # of the people who are not in test
_BY_PERSON = tfds.core.Version("2.0.0")  # 1.0.0 held out images of the people in train
TEXT = tfds.features.Text()


class FaceBuilder(ImageBuilder, skip_registration=True):
    """A builder of labelled images with their `path`, and a text for each of `columns`, by which scores are grouped.

    The metadata of the prepared set hold `known`, the number of people in train (the first classes), `held_out`, the
    number of people in validation only (the next classes), and `pairs`: split -> pairs of its images (images/pairs.py).
    """

    columns: Sequence[str] = ()

    def face_info(
        self,
        shape: tuple,
        known: Collection[str],
        unseen: Collection[str] = (),
        columns: Sequence[str] = (),
        held_out: Collection[str] = (),
    ) -> tfds.core.DatasetInfo:
        """The TFDS metadata for images of `shape` of people in train (`known`), validation (`held_out`) and others."""
        return self.image_info(
            self.__doc__,
            shape,
            [*known, *held_out, *unseen],
            more=dict.fromkeys(("path", *columns), TEXT),
            metadata=tfds.core.MetadataDict(known=len(known), held_out=len(held_out), pairs={}),
        )

    def keep_pairs(self, split: str, pairs: Sequence[pairs_lib.ImagePair]) -> None:
        """Stores the pairs of a split in the metadata; call it from `_split_generators`."""
        self.info.metadata["pairs"][split] = [list(pair) for pair in pairs]


class ZippedFaces(FaceBuilder, skip_registration=True):
    """Images of people in a zip archive, and a file of pairs of held-out people.

    identification           all people are in train; validation and test are other images of them
    verification             people in pairs are test; of the others, every fifth is validation. No person is in two
                             splits, so validation measures verification of unseen people
    verification_fold<1-4>   the same with other people in validation

    A subclass defines the names of the archive's members, and the splits of images in `identification`.
    """

    BUILDER_CONFIGS = [  # noqa: RUF012  TFDS reads it from the class.
        tfds.core.BuilderConfig(name="identification"),
        tfds.core.BuilderConfig(name="verification", version=_BY_PERSON),
        *(tfds.core.BuilderConfig(name=f"verification_fold{fold}", version=_BY_PERSON) for fold in range(1, FOLDS)),
    ]
    channels = 1
    shape: tuple[int, int, int]
    people: Sequence[str]
    unseen: Sequence[str]  # in the configuration `verification`
    member: ClassVar[re.Pattern]  # with the group `person`

    def split(self, position: int) -> str:
        """The split in `identification` of the image at index `position` of a person's sorted images."""
        raise NotImplementedError

    def values(self, member: str) -> Mapping[str, str]:
        """The text of each of `columns` for an image."""
        return {}

    def order(self, member: str) -> tuple:
        """The key by which the images of a person are sorted."""
        return (member,)

    def _info(self):
        if self.builder_config.name == "identification":
            return self.face_info(self.shape, self.people, columns=self.columns)
        held_out = self.held_out()
        known = [person for person in self.people if person not in (*held_out, *self.unseen)]
        return self.face_info(self.shape, known, self.unseen, self.columns, held_out)

    def held_out(self) -> list[str]:
        """The people of validation in `verification`: every fifth of those who are not in test."""
        fold = int(self.builder_config.name.partition("_fold")[2] or 0)
        return [person for person in self.people if person not in self.unseen][fold::FOLDS]

    def _split_generators(self, dl_manager):
        archive, pairs_file = (Path(dl_manager.manual_dir) / name for name in self.archives)
        members = self._members(archive)
        parts = {"train": [], "validation": [], "test": []}
        for person, images in members.items():
            for position, member in enumerate(images):
                parts[self._part(person, position)].append((member, person))
        if self.builder_config.name != "identification":
            pairs = pairs_lib.read_csv(text_files.text(pairs_file), str(pairs_file))
            pairs_lib.check(pairs, {member for member, _ in parts["test"]}, str(pairs_file))
            self.keep_pairs("test", pairs)
        return {split: self._generate_examples(split, self._read(archive, part)) for split, part in parts.items()}

    def _part(self, person: str, position: int) -> str:
        if self.builder_config.name == "identification":
            return self.split(position)
        if person in self.unseen:
            return "test"
        return "validation" if person in self.held_out() else "train"

    def _members(self, archive: Path) -> dict[str, list[str]]:
        """Person -> their images, sorted. Raises ValueError if a person has none."""
        found = {person: [] for person in self.people}
        with damage_named(archive), zipfile.ZipFile(archive) as members:
            for name in members.namelist():
                if match := self.member.fullmatch(name):
                    found.setdefault(match["person"], []).append(name)
        if missing := [person for person in self.people if not found[person]]:
            raise ValueError(f"{archive} lacks the images of {', '.join(missing)}; fetch it again")
        if unknown := found.keys() - set(self.people):
            raise ValueError(f"{archive} holds images of unknown people, {', '.join(sorted(unknown))}; fetch it again")
        return {person: sorted(names, key=self.order) for person, names in found.items()}

    def _read(self, archive: Path, part: Sequence[tuple[str, str]]) -> Iterator[EncodedImage]:
        with damage_named(archive), zipfile.ZipFile(archive) as members:
            for member, person in part:
                more = {"path": member, **self.values(member)}
                yield EncodedImage(archive, member, members.read(member), person, more)


def number_of(member: str) -> int:
    """The number in a file name."""
    return int(PurePosixPath(member).stem)
