"""What our builders of labelled clips share: a clip is a sequence of images, kept as bytes and checked once."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import tensorflow_datasets as tfds

from research.data.builders.own import OwnBuilder
from research.data.images import transforms
from research.measure import progress


class Clip(NamedTuple):
    """A clip as encoded images in their order. The stored order hashes `name`, which names it to a person, too."""

    name: str
    frames: Sequence[bytes]
    label: str
    warning: str = ""  # what is wrong with it, though it is used


class ClipBuilder(OwnBuilder, skip_registration=True):
    """A TFDS builder of `frames`, a `label` and the `clip` that they are, prepared without TensorFlow.

    `archives`, `skip_undecodable` and `skipped` are as in ImageBuilder; `warnings` name
    clips that are used though they are damaged.
    """

    VERSION = tfds.core.Version("1.0.0")
    archives: Sequence[str] = ()
    skip_undecodable = False
    summary: Callable[[], str]  # of folders, for a person, and what they hold that is left out, by reason
    left_out: Mapping[str, Sequence[Path]]

    def __init__(self, **kwargs):
        self.skipped: list[str] = []
        self.warnings: list[str] = []
        super().__init__(**kwargs)

    def clip_info(self, frames: int, shape: tuple, class_names: Sequence[str]) -> tfds.core.DatasetInfo:
        """The TFDS metadata of clips of so many `frames` of `shape` [height, width, channels] (None: it varies)."""
        features = {
            "frames": tfds.features.Sequence(tfds.features.Image(shape=shape), length=frames),
            "label": tfds.features.ClassLabel(names=class_names),
            "clip": tfds.features.Text(),
        }
        return tfds.core.DatasetInfo(
            builder=self, description=self.__doc__, features=tfds.features.FeaturesDict(features)
        )

    def _generate_examples(self, split: str, clips: Iterable["Clip | Undecodable"]) -> Iterator[tuple[str, dict]]:
        shown = progress.over(clips, f"{self.name} {split}", "clips")
        for clip in shown:
            problem = clip.problem if isinstance(clip, Undecodable) else self._problem(clip)
            if problem or isinstance(clip, Undecodable):
                if not self.skip_undecodable:
                    raise ValueError(f"{clip.name} {problem}; fix it, or prepare with --skip_undecodable")
                self.skipped.append(f"{clip.name} {problem}")
                continue
            if clip.warning:
                self.warnings.append(f"{clip.name} {clip.warning}")
            yield clip.name, {"frames": list(clip.frames), "label": clip.label, "clip": clip.name}

    def _problem(self, clip: Clip) -> str:
        """What is wrong with a clip; empty for nothing."""
        wanted = self.info.features["frames"].shape[0]
        if len(clip.frames) != wanted:
            return f"has {len(clip.frames)} frames, not {wanted}"
        for number, frame in enumerate(clip.frames):
            try:
                transforms.decode(frame, 3)
            except ValueError as error:
                return f"has a frame, {number}, that {error}"
        return ""


class Undecodable(NamedTuple):
    """A clip that cannot be used, and why."""

    name: str
    problem: str
