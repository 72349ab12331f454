"""FCOS over an FPN and a ResNet-50 on COCO 2017: 118,287 photographs, 80 classes.

    python -m research.data prepare coco2017 --manual_dir=COCO
    python -m experiments.detection.main --config=configs/detection/coco_fcos_resnet50.py --workdir=runs/coco_fcos

Tian et al., "FCOS: Fully convolutional one-stage object detection", 2019: 90,000 steps of 16 images, levels of stride 8
to 128, mAP 38.6 % with centre sampling, GIoU and an ImageNet backbone (their table 3). Here all layers are trained from
scratch, and images are resized to fit 800 x 1024 px, with scale jitter of 0.5 to 1.5. A tenth of train is held out to
select the checkpoint; the official validation split is the test split.
Hardware: 8 or 16 accelerators. Mesh: data=-1, which takes, as planned, 9.9 of 16 GiB per chip on v5e:2x4. Not trained
here. `smoke`: seconds on a CPU.
"""

from ml_collections import ConfigDict

from experiments.detection.experiment import Detection

EXPERIMENT = Detection
VARIANTS = ("full", "smoke")

RESULT = {
    "metric": "test/map",
    "floor": 0.001,
    "floor_source": "boxes of random positions, sizes and classes; at most",
    "reference": 0.386,
    "reference_source": "FCOS, ResNet-50-FPN from ImageNet, Tian et al. 2019",
}


def get_config(variant: str = "full") -> ConfigDict:
    """The config of one of VARIANTS."""
    config = ConfigDict(
        {
            "seed": 0,
            "data": {
                "name": "coco2017",
                "image_size": (800, 1024),
                "max_boxes": 100,
                "bad_boxes": "clip",
                "scale": (0.5, 1.5),
                "flip": True,
                "mean": (123.7, 116.3, 103.5),
                "std": (58.4, 57.1, 57.4),
                "workers": 16,
            },
            "model": {
                "name": "resnet",
                "stage_sizes": (3, 4, 6, 3),
                "block": "bottleneck",
                "width": 64,
                "finest": 1,
                "extra": 2,
                "pyramid_channels": 256,
                "head_depth": 4,
            },
            "task": {"nms_iou": 0.6, "candidates": 1000, "select_by": "map"},
            "optimizer": {
                "name": "adamw",
                "learning_rate": 5e-4,
                "schedule": "cosine",
                "warmup_steps": 2000,
                "weight_decay": 0.05,
                "clip_norm": 1.0,
            },
            "train": {
                "steps": 180_000,
                "batch_size": 32,
                "eval_batch_size": 32,
                "eval_every": 10_000,
                "checkpoint_every": 5000,
                "log_every": 100,
                "select": "best",
                "score": "all",
            },
            "precision": {"compute": "bfloat16"},
        }
    )
    if variant == "smoke":  # generated coloured shapes; no download
        config.data.update(
            name="boxed_shapes", image_size=(48, 64), max_boxes=16, workers=0, mean=(120.0,), std=(40.0,)
        )
        config.model.update(stage_sizes=(1, 1), width=4, finest=0, extra=1, pyramid_channels=8, head_depth=1)
        config.optimizer.warmup_steps = 1
        config.train.update(steps=2, batch_size=8, eval_batch_size=16, eval_every=2, checkpoint_every=2, log_every=1)
        config.precision.compute = "float32"
    return config
