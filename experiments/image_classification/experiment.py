"""Image classification: labelled images, a ViT or a CNN, cross-entropy."""

from research.data import datasets, recorded
from research.data.spec import ImageSpec
from research.models.alexnet import AlexNet, AlexNetSpec
from research.models.convnext import ConvNeXt, ConvNeXtSpec
from research.models.resnet import ResNet, ResNetSpec
from research.models.vit import ViT, ViTSpec
from research.spec import field
from research.tasks import classification
from research.tasks.classification import ClassificationSpec
from research.train.settings import Experiment

_MODELS = {ViTSpec: ViT, ResNetSpec: ResNet, ConvNeXtSpec: ConvNeXt, AlexNetSpec: AlexNet}


class ImageClassification(Experiment, tag="image_classification"):
    """Labelled images, a ViT or a CNN, cross-entropy."""

    data: ImageSpec = field(default=ImageSpec(), doc="the images")
    model: ViTSpec | ResNetSpec | ConvNeXtSpec | AlexNetSpec = field(default=ViTSpec(), doc="the model")
    task: ClassificationSpec = field(default=ClassificationSpec(), doc="the loss")

    def build(self, known: recorded.Recorded | None = None) -> tuple[classification.Task, datasets.Pictures]:
        """The task and the data set, or the data that a run has recorded; nothing is read or computed yet."""
        data, precision = datasets.load(self.data, known), self.precision
        model = _MODELS[type(self.model)](self.model, data.num_classes, precision.compute, precision.params)
        return classification.Task(model, data.image_shape, data.mean, data.std, self.task), data
