"""Video classification: labelled clips, a ViViT, cross-entropy."""

from research.data import recorded
from research.data.clips import dataset as clips
from research.data.images.spec import ClipSpec
from research.models.video import VideoViT, VideoViTSpec
from research.spec import field
from research.tasks import video
from research.tasks.classification import LabelSpec
from research.train.settings import Experiment


class Video(Experiment, tag="video"):
    """Labelled clips, a ViViT, cross-entropy."""

    data: ClipSpec = field(default=ClipSpec(), doc="the clips")
    model: VideoViTSpec = field(default=VideoViTSpec(), doc="the model")
    task: LabelSpec = field(default=LabelSpec(), doc="the loss")

    def build(
        self, known: recorded.Recorded | None = None, order: str = clips.ORDERS[0]
    ) -> tuple[video.VideoTask, clips.ClipDataset]:
        """The task and the data set, or the data that a run has recorded; nothing is read or computed yet.

        Evaluation uses frames in `order`.
        """
        data, precision = clips.load(self.data, order, known), self.precision
        model = VideoViT(self.model, data.num_classes, precision.compute, precision.params)
        return video.VideoTask(model, data.image_shape, data.mean, data.std, self.task), data
