"""Base class of the builders of labelled clips: a clip is a sequence of encoded images, checked once."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import tensorflow_datasets as tfds

from research.data.builders.own import OwnBuilder
from research.data.images import transforms
from research.measure import progress


class Clip(NamedTuple):
    """A clip as encoded images in order. TFDS orders clips by the hash of `name`, which messages use too."""

    name: str
    frames: Sequence[bytes]
    label: str
    warning: str = ""  # about a clip that is damaged but used


class ClipBuilder(OwnBuilder, skip_registration=True):
    """A TFDS builder of `frames`, a `label` and the name `clip`, prepared without TensorFlow.

    `archives`, `skip_undecodable` and `skipped` are as in ImageBuilder; `warnings` name clips that are damaged but
    used.
    """

    VERSION = tfds.core.Version("1.0.0")
    archives: Sequence[str] = ()
    skip_undecodable = False
    summary: Callable[[], str]  # of folders, for the user; and the files left out, by reason
    left_out: Mapping[str, Sequence[Path]]

    def __init__(self, **kwargs):
        self.skipped: list[str] = []
        self.warnings: list[str] = []
        super().__init__(**kwargs)

    def clip_info(self, frames: int, shape: tuple, class_names: Sequence[str]) -> tfds.core.DatasetInfo:
        """The TFDS metadata of clips of `frames` frames of `shape` [height, width, channels] (None: varies)."""
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
        """The problem of a clip; empty if there is none."""
        wanted = self.info.features["frames"].shape[0]
        if len(clip.frames) != wanted:
            return f"has {len(clip.frames)} frames; {wanted} are needed"
        for number, frame in enumerate(clip.frames):
            try:
                transforms.decode(frame, 3)
            except ValueError as error:
                return f"has frame {number}, which {error}"
        return ""


class Undecodable(NamedTuple):
    """A clip that cannot be used, and why."""

    name: str
    problem: str
