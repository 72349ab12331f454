"""Face recognition: images of people, embeddings with an angular-margin loss."""

from research.data import recorded
from research.data.images import faces as face_data
from research.data.images.spec import FaceDataSpec
from research.models import backbones, efficientnet, resnet, vit
from research.models.faces import FaceModel, FaceModelSpec
from research.spec import field
from research.tasks import faces
from research.tasks.faces import FaceSpec
from research.train.settings import Experiment


class ResNetFaces(resnet.ResNetSpec, FaceModelSpec, tag="resnet"):
    """A ResNet as the backbone."""


class ViTFaces(vit.ViTSpec, FaceModelSpec, tag="vit"):
    """A ViT as the backbone."""


class EfficientNetFaces(efficientnet.EfficientNetSpec, FaceModelSpec, tag="efficientnet"):
    """An EfficientNet-Lite as the backbone."""


class FaceRecognition(Experiment, tag="face_recognition"):
    """Images of people, embeddings with an angular margin."""

    data: FaceDataSpec = field(default=FaceDataSpec(), doc="the images of people")
    model: ResNetFaces | ViTFaces | EfficientNetFaces = field(
        default=ResNetFaces(), doc="the backbone, with the embedding"
    )
    task: FaceSpec = field(default=FaceSpec(), doc="the loss, and what is scored")

    def build(self, known: recorded.Recorded | None = None) -> tuple[faces.FaceTask, face_data.FaceDataset]:
        """The task and the data set, or the data that a run has recorded; nothing is read or computed yet."""
        data = face_data.load(self.data, "identification" in self.task.metrics, known)
        model = backbones.make(FaceModel, self.model, data.num_classes, self.precision)
        return faces.FaceTask(model, data.image_shape, data.mean, data.std, self.task), data
