"""Video classification baselines: motion statistics, and the mean frame."""

from collections.abc import Mapping

import numpy as np

from research.baselines import scoring, vectors
from research.baselines.base import Baseline

SIDE = 16  # px of the mean frame
CHANGED = 25.5  # of 255: the threshold above which a pixel counts as changed


class ClipBaselines(scoring.LabelledBaselines):
    """Baselines on clips, transformed as for evaluation."""

    def baselines(self) -> list[Baseline]:
        """The most frequent class, a threshold and logistic regression on motion, logistic regression on the frame."""
        labels, train = scoring.labels(self._data, "train"), self.features("train")
        return [
            vectors.most_frequent(labels),
            vectors.threshold(train, "motion", labels, "the mean difference of frames"),
            vectors.logistic_regression(
                train, "motion", labels, "statistics of the differences of frames", scaled=True
            ),
            vectors.logistic_regression(train, "frame", labels, f"the mean frame at {SIDE} px", scaled=True),
        ]

    def make_features(self, split: str) -> Mapping[str, np.ndarray]:
        """`motion` and `frame`."""
        motions, frames = [], []
        for batch in self._data.eval_batches(split, 16):
            clips = batch["image"][batch["index"] >= 0]
            motions += [motion(clip) for clip in clips]
            frames += [shrunk(clip.mean(0), SIDE).ravel() for clip in clips]
        return {"motion": np.stack(motions), "frame": np.stack(frames)}


def motion(clip: np.ndarray) -> np.ndarray:
    """Six statistics of the absolute frame differences of a clip [frames, height, width, channels].

    The mean; its standard deviation and maximum over time; the 95th percentile; the share of pixels that changed; and
    the standard deviation over 8 x 8 parts of the image, divided by the mean.
    """
    if len(clip) < 2:
        return np.zeros(6)
    change = np.abs(np.diff(clip.astype(np.float32).mean(-1), axis=0))  # grey, [frames - 1, height, width]
    over_time, mean = change.mean((1, 2)), change.mean()
    uneven = shrunk(change.mean(0)[..., None], 8).std() / max(mean, 1e-6)
    percentile, share = np.percentile(change, 95), (change > CHANGED).mean()
    return np.array([mean, over_time.std(), over_time.max(), percentile, share, uneven])


def shrunk(image: np.ndarray, side: int) -> np.ndarray:
    """Average-pools an image [height, width, channels] to at most `side` x `side` px."""
    rows, columns = (np.array_split(np.arange(length), min(side, length)) for length in image.shape[:2])
    bands = np.stack([image[part].mean(0) for part in rows])
    return np.stack([bands[:, part].mean(1) for part in columns], axis=1)
