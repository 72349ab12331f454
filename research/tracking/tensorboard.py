"""TensorBoard events in the folder `events` of a run, written by tensorboardX."""

from collections.abc import Mapping, Sequence

import numpy as np

from research.tracking.base import Histogram, TrackedRun


class TensorBoard:
    """See base.Tracker. Events from `first_step` on that an earlier start has written are purged."""

    def __init__(self, run: TrackedRun):
        from tensorboardX import SummaryWriter  # takes a third of a second to import

        self._events = SummaryWriter(str(run.folder / "events"), purge_step=run.first_step)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """See Tracker.scalars."""
        for name, value in values.items():
            self._events.add_scalar(name, value, step)

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        """See Tracker.image."""
        self._events.add_image(name, image, step, dataformats="HWC")

    def histograms(self, step: int, values: Mapping[str, Histogram]) -> None:
        """See Tracker.histograms; the moments that TensorBoard stores are those of the middles of the bins."""
        for name, (counts, edges) in values.items():
            middles = (edges[:-1] + edges[1:]) / 2
            self._events.add_histogram_raw(
                name, min=float(edges[0]), max=float(edges[-1]), num=float(counts.sum()),
                sum=float((counts * middles).sum()), sum_squares=float((counts * middles**2).sum()),
                bucket_limits=edges[1:].tolist(), bucket_counts=counts.tolist(), global_step=step,
            )  # fmt: skip

    def texts(self, step: int, name: str, texts: Sequence[str]) -> None:
        """See Tracker.texts; TensorBoard renders Markdown, in which an indented line is shown as it is."""
        self._events.add_text(name, "\n\n".join("    " + text.replace("\n", "\n    ") for text in texts), step)

    def flush(self) -> None:
        """See Tracker.flush."""
        self._events.flush()

    def close(self, finished: bool) -> None:
        """See Tracker.close."""
        self._events.close()
