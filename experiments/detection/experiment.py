"""Object detection: images with boxes, FCOS around a ResNet, a ViT or an EfficientNet."""

from research.data import recorded
from research.data.images import detection as boxes
from research.models import backbones, efficientnet, resnet, vit
from research.models.detector import Detector, DetectorSpec
from research.spec import field
from research.tasks import detection
from research.tasks.detection import DetectionSpec
from research.train.settings import Experiment


class ResNetDetector(resnet.ResNetSpec, DetectorSpec, tag="resnet"):
    """A ResNet as the backbone."""


class ViTDetector(vit.ViTSpec, DetectorSpec, tag="vit"):
    """A ViT as the backbone."""


class EfficientNetDetector(efficientnet.EfficientNetSpec, DetectorSpec, tag="efficientnet"):
    """An EfficientNet-Lite as the backbone."""


class Detection(Experiment, tag="detection"):
    """Images with boxes, FCOS around a ResNet, a ViT or an EfficientNet."""

    data: boxes.DetectionDataSpec = field(doc="the images and boxes")
    model: ResNetDetector | ViTDetector | EfficientNetDetector = field(
        default=ResNetDetector(), doc="the backbone, with pyramid and head"
    )
    task: DetectionSpec = field(default=DetectionSpec(), doc="the loss, and how boxes are chosen")

    def build(self, known: recorded.Recorded | None = None) -> tuple[detection.DetectionTask, boxes.DetectionDataset]:
        """The task and the data set, or the data that a run has recorded; nothing is read or computed yet."""
        data = boxes.load(self.data, known)
        model = backbones.make(Detector, self.model, data.num_classes, self.precision)
        task = detection.DetectionTask(
            model, data.class_names, data.image_shape, self.data.max_boxes, data.mean, data.std, self.task
        )
        return task, data
