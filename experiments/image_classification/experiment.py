"""Image classification: labelled images, a ViT or a CNN, cross-entropy."""

from collections.abc import Sequence

from research.data import dataset, recorded
from research.data.images import classification as image_classification
from research.data.images.spec import ImageSpec
from research.models.alexnet import AlexNet, AlexNetSpec
from research.models.convnext import ConvNeXt, ConvNeXtSpec
from research.models.efficientnet import EfficientNet, EfficientNetSpec
from research.models.resnet import ResNet, ResNetSpec
from research.models.vit import ViT, ViTSpec
from research.models.whitened_cnn import WhitenedCNN, WhitenedCNNSpec
from research.spec import field
from research.tasks import classification
from research.tasks.classification import ClassificationSpec
from research.train.settings import Experiment

_MODELS = {
    ViTSpec: ViT,
    ResNetSpec: ResNet,
    ConvNeXtSpec: ConvNeXt,
    EfficientNetSpec: EfficientNet,
    AlexNetSpec: AlexNet,
    WhitenedCNNSpec: WhitenedCNN,
}


class ImageClassification(Experiment, tag="image_classification"):
    """Labelled images, a ViT or a CNN, cross-entropy."""

    data: ImageSpec = field(default=ImageSpec(), doc="the images")
    model: ViTSpec | ResNetSpec | ConvNeXtSpec | EfficientNetSpec | AlexNetSpec | WhitenedCNNSpec = field(
        default=ViTSpec(), doc="the model"
    )
    task: ClassificationSpec = field(default=ClassificationSpec(), doc="the loss")

    def build(
        self, known: recorded.Recorded | None = None
    ) -> tuple[classification.ClassificationTask, image_classification.ImageDataset]:
        """The task and the data set, or the data that a run has recorded; nothing is read or computed yet."""
        data = image_classification.load(self.data, known)
        return self.make_task(data.num_classes, data.image_shape), data

    def make_task(self, num_classes: int, image_shape: Sequence[int]) -> classification.ClassificationTask:
        """The task for `num_classes` classes of images [height, width, channels]; the data set itself is not needed."""
        if type(self.model) not in _MODELS:
            raise ValueError(f"{type(self.model).__name__} has no module in _MODELS of {__file__}; add it there")
        model = _MODELS[type(self.model)](self.model, num_classes, self.precision.compute, self.precision.params)
        mean, std = (dataset.per_channel(getattr(self.data, of), image_shape[-1], of) for of in ("mean", "std"))
        return classification.ClassificationTask(model, tuple(image_shape), mean, std, self.task)
