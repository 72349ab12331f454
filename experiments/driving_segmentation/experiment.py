"""Semantic segmentation: images with masks, a decoder around a ResNet, a ViT or an EfficientNet."""

from research.data import recorded
from research.data.images import segmentation as scenes
from research.models import backbones, efficientnet, resnet, vit
from research.models.segmenter import Segmenter, SegmenterSpec
from research.spec import field
from research.tasks import segmentation
from research.tasks.segmentation import SegmentationSpec
from research.train.settings import Experiment


class ResNetSegmenter(resnet.ResNetSpec, SegmenterSpec, tag="resnet"):
    """A ResNet as the backbone."""


class ViTSegmenter(vit.ViTSpec, SegmenterSpec, tag="vit"):
    """A ViT as the backbone."""


class EfficientNetSegmenter(efficientnet.EfficientNetSpec, SegmenterSpec, tag="efficientnet"):
    """An EfficientNet-Lite as the backbone."""


class DrivingSegmentation(Experiment, tag="driving_segmentation"):
    """Images with masks, a decoder around a ResNet, a ViT or an EfficientNet."""

    data: scenes.SegmentationDataSpec = field(default=scenes.SegmentationDataSpec(), doc="the images and masks")
    model: ResNetSegmenter | ViTSegmenter | EfficientNetSegmenter = field(
        default=ResNetSegmenter(), doc="the backbone, with a decoder"
    )
    task: SegmentationSpec = field(default=SegmentationSpec(), doc="the loss")

    def build(
        self, known: recorded.Recorded | None = None
    ) -> tuple[segmentation.SegmentationTask, scenes.SegmentationDataset]:
        """The task and the data set, or the data that a run has recorded; nothing is read or computed yet."""
        data = scenes.load(self.data, known)
        model = backbones.make(Segmenter, self.model, data.num_classes, self.precision)
        sizes = data.train_transform.size, data.eval_transform.size
        if isinstance(model.backbone, vit.ViT) and sizes[0] != sizes[1]:
            raise ValueError(
                f"a ViT has a fixed input size, but config.data.image_size={sizes[0]} and eval_size={sizes[1]}; "
                "set both to the size of the largest image, or use a ResNet or an EfficientNet"
            )
        return segmentation.SegmentationTask(
            model, data.class_names, data.image_shape, data.mean, data.std, self.task
        ), data
