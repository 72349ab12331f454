"""`load(spec)`: labelled clips as batches that are a function of (seed, step)."""

import dataclasses
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from research.data import dataset, recorded, sources
from research.data.images import classification, transforms
from research.data.images.spec import ClipSpec
from research.measure import progress

ORDERS = ("original", "shuffled", "reversed")


@dataclasses.dataclass(frozen=True)
class EvalClipTransform:
    """Evenly spaced frames of a clip, uint8 [frames, size, size, channels], in one of ORDERS."""

    frame: transforms.EvalImageTransform
    frames: int
    order: str = "original"

    def __call__(self, example: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """The arrays `image` and `label` of an example with encoded frames."""
        stored = example["frames"]
        chosen = sample_frames(len(stored), self.frames)
        if self.order == "reversed":
            chosen = chosen[::-1]
        elif self.order == "shuffled":  # a fixed permutation for each clip
            chosen = np.random.default_rng(zlib.crc32(example["clip"])).permutation(chosen)
        return _clip([self.frame({"image": stored[index], "label": example["label"]}) for index in chosen])


@dataclasses.dataclass(frozen=True)
class TrainClipTransform:
    """As EvalClipTransform, with temporal jitter and one random augmentation per clip."""

    frame: transforms.TrainImageTransform
    frames: int

    def __call__(self, example: Mapping[str, Any], rng: np.random.Generator) -> dict[str, np.ndarray]:
        """As in evaluation, with the random choices drawn from `rng`."""
        stored, seed = example["frames"], int(rng.integers(2**63))
        chosen = sample_frames(len(stored), self.frames, rng.random())
        # Every frame gets a generator in the same state, so that all are augmented alike.
        frames = [
            self.frame({"image": stored[index], "label": example["label"]}, np.random.default_rng(seed))
            for index in chosen
        ]
        return _clip(frames)


@dataclasses.dataclass(frozen=True)
class ClipDataset(classification.LabelledDataset):
    """Labelled clips. A batch holds, beside `index` and `weight`:

    image  uint8 [batch, frames, height, width, channels]
    label  int32 [batch]
    """

    train_transform: TrainClipTransform
    eval_transform: EvalClipTransform

    @property
    def encoded_key(self) -> str:
        """See LabelledDataset."""
        return "frames"

    def reference(self, split: str, index: int) -> dict[str, str]:
        """The name of an example (`clip`) and its `class`."""
        example = self.prepared.source(split)[index]
        return {"clip": example["clip"].decode(), "class": self.class_names[int(example["label"])]}

    def read(self, path: str) -> np.ndarray:
        """The video file at `path`, transformed as for evaluation: uint8 [frames, height, width, channels].

        Logs a warning for a truncated file. Raises ValueError for a file that is not a video, see video_files.read.
        """
        from research.data.clips import files as video_files
        from research.data.clips.builders import clip_folder

        video = video_files.read(path, max(self.image_shape[0], clip_folder.FRAMES), clip_folder.SIDE)
        if video.warning:
            progress.say(f"video {path!r} {video.warning}")
        return self.eval_transform({"frames": video.frames, "label": 0})["image"]


def sample_frames(stored: int, count: int, phase: float = 0.5) -> np.ndarray:
    """Indices of `count` frames of `stored`, one per equal segment, at `phase` (0 to 1) within each segment (TSN)."""
    return np.minimum(((np.arange(count) + phase) * stored / count).astype(int), stored - 1)


def load(spec: ClipSpec, order: str = ORDERS[0], known: recorded.Recorded | None = None) -> ClipDataset:
    """The data set that `spec` describes, see classification.load; `order` is the order of frames in evaluation."""
    if order not in ORDERS:
        raise ValueError(f"order={order!r} is unknown; choose from {', '.join(ORDERS)}")
    builder = known or sources.open_builder(spec.name, spec.dir)
    features = builder.info.features
    if not {"frames", "label"} <= features.keys():
        raise ValueError(
            f"config.data.name={spec.name!r} has the features {', '.join(features)}; the features frames and label "
            "are needed"
        )
    stored, *shape = features["frames"].shape
    frames = spec.frames or stored
    if frames > stored:
        raise ValueError(
            f"config.data.frames={frames}, but {spec.name!r} stores {stored} of each clip; use at most that"
        )
    train, evaluate = classification.make_transforms(spec, shape, "image", "label")
    channels = evaluate.channels
    return ClipDataset(
        prepared=sources.Prepared(
            builder, spec.name, spec.validation_fraction, spec.fit_on, group=spec.group, half=spec.half
        ),
        train_transform=TrainClipTransform(train, frames),
        eval_transform=EvalClipTransform(evaluate, frames, order),
        workers=spec.workers,
        prefetch=spec.prefetch,
        class_names=tuple(features["label"].names),
        image_shape=(frames, train.size, train.size, channels),
        mean=dataset.per_channel(spec.mean, channels, "mean"),
        std=dataset.per_channel(spec.std, channels, "std"),
        cache=spec.cache,
    )


def _clip(frames: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {"image": np.stack([frame["image"] for frame in frames]), "label": frames[0]["label"]}
