"""FCOS over an FPN and a ResNet on BCCD: 364 images of blood cells, 205 to train on, from scratch.

    python -m research.data prepare bccd_voc --manual_dir=$DATA/bccd
    python -m experiments.detection.main --config=configs/detection/bccd_fcos.py:cpu --workdir=runs/bccd_fcos

Augmentation: scale 0.6 to 1.6, horizontal and vertical flips, color jitter, a mosaic of four for half of the images.
The checkpoint with the best mAP on the validation split is tested. The backbone is not pre-trained.
Reference: none known for this split.
`full`: a ResNet-50 at 480 x 640 px, for a GPU. `cpu`: a narrow ResNet-18 at half that size. `smoke`: seconds, generated
shapes.
"""

from ml_collections import ConfigDict

from experiments.detection.experiment import Detection

EXPERIMENT = Detection
VARIANTS = ("full", "cpu", "smoke")

RESULT = {
    "metric": "test/map50",
    "also": ("test/map",),
    "reference": None,
    "reference_source": "",
}


def get_config(variant: str = "full") -> ConfigDict:
    """The config of one of VARIANTS."""
    config = ConfigDict(
        {
            "seed": 0,
            "data": {
                "name": "bccd_voc",
                "image_size": (480, 640),
                "max_boxes": 100,
                "bad_boxes": "clip",
                "scale": (0.6, 1.6),
                "flip": True,
                "vertical_flip": True,
                "color_jitter": 0.2,
                "mosaic": 0.5,
                "mean": (168.0, 156.0, 160.0),
                "std": (57.0, 56.0, 45.0),
                "workers": 4,
            },
            "model": {
                "name": "resnet",
                "stage_sizes": (3, 4, 6, 3),
                "block": "bottleneck",
                "width": 64,
                "finest": 1,
                "pyramid_channels": 256,
                "head_depth": 4,
            },
            "task": {"nms_iou": 0.5, "select_by": "map50"},
            "optimizer": {
                "name": "adamw",
                "learning_rate": 5e-4,
                "schedule": "cosine",
                "warmup_steps": 500,
                "weight_decay": 0.05,
                "clip_norm": 1.0,
            },
            "train": {
                "steps": 10_000,
                "batch_size": 16,
                "eval_batch_size": 16,
                "eval_every": 500,
                "checkpoint_every": 500,
                "log_every": 100,
                "ema": 0.999,
                "select": "best",
                "score": "all",
            },
        }
    )
    if variant == "cpu":
        config.data.update(image_size=(240, 320), workers=0)
        config.model.update(stage_sizes=(2, 2, 2, 2), block="basic", width=24, pyramid_channels=64, head_depth=2)
        config.optimizer.update(learning_rate=2e-3, warmup_steps=100)
        config.train.update(steps=2000, batch_size=8, eval_every=250, checkpoint_every=250, log_every=25, ema=0.99)
    if variant == "smoke":
        config.data.update(
            name="boxed_shapes", image_size=(48, 64), max_boxes=16, workers=0, mean=(120.0,), std=(40.0,)
        )
        config.model.update(stage_sizes=(1, 1), block="basic", width=8, finest=0, pyramid_channels=8, head_depth=1)
        config.model.stem = "half"
        config.optimizer.warmup_steps = 2
        config.train.update(steps=6, batch_size=8, eval_batch_size=16, eval_every=3, checkpoint_every=3, log_every=1)
    return config
