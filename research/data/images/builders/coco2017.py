"""COCO 2017 (Lin et al., 2014): 80 classes of objects. The builder of the TFDS catalogue needs TensorFlow.

Reads the folder in which train2017.zip, val2017.zip and annotations_trainval2017.zip of cocodataset.org were unpacked.
"""

from pathlib import Path

from research.data.images.builders import box_folder
from research.data.images.builders.boxes import BoxBuilder

CLASSES = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow", "elephant",
    "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard",
    "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket", "bottle",
    "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich", "orange", "broccoli",
    "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch", "potted plant", "bed", "dining table", "toilet",
    "tv", "laptop", "mouse", "remote", "keyboard", "cell phone", "microwave", "oven", "toaster", "sink",
    "refrigerator", "book", "clock", "vase", "scissors", "teddy bear", "hair drier", "toothbrush",
)  # fmt: skip


class Coco2017(BoxBuilder, skip_registration=True):
    """118,287 images for train and validation; the official validation, 5,000 images, is test."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = "the folders annotations, train2017 and val2017 of cocodataset.org"
    class_names = CLASSES

    def _split_generators(self, dl_manager):
        root = Path(dl_manager.manual_dir)
        splits, _ = box_folder.find(root)
        if splits.keys() != {"train", "validation"}:
            raise ValueError(
                f"{root}/annotations holds {', '.join(splits)}; instances_{{train,val}}2017.json are needed"
            )
        parts = {"train": splits["train"], "test": splits["validation"]}
        return {name: self._generate_examples(name, box_folder.read(root, part)) for name, part in parts.items()}
