"""Semantic FPN over a ResNet-50 on Cityscapes: 2,975 street scenes of 2048 x 1024 px, 19 classes.

    python -m research.data prepare cityscapes_fine --manual_dir=CITYSCAPES
    python -m experiments.driving_segmentation.main \\
      --config=configs/driving_segmentation/cityscapes_resnet50.py --workdir=runs/cityscapes

Kirillov et al., "Panoptic feature pyramid networks", 2019: 65,000 steps of 32 crops of 512 x 1024 px at scales 0.5 to
2, 128 channels in the semantic branch; mIoU 77.7 % with a ResNet-101 pre-trained on ImageNet. Here the backbone is a
ResNet-50 trained from scratch, the optimizer AdamW. Evaluation is on whole images; `val` is the test split, and a tenth
of train is held out to select the checkpoint. CITYSCAPES contains leftImg8bit and gtFine. Hardware: 8 to 32
accelerators. Mesh: data=-1, which takes, as planned, 6.5 of 16 GiB per chip on v5e:2x4, bound by HBM. Not trained here.
`smoke`: seconds on a CPU.
"""

from ml_collections import ConfigDict

from experiments.driving_segmentation.experiment import DrivingSegmentation

EXPERIMENT = DrivingSegmentation
VARIANTS = ("full", "smoke")

RESULT = {
    "metric": "test/miou",
    "floor": 0.02,
    "floor_source": "road everywhere",
    "reference": 0.777,
    "reference_source": "Semantic FPN, ResNet-101 from ImageNet, Kirillov et al. 2019",
}


def get_config(variant: str = "full") -> ConfigDict:
    """The config of one of VARIANTS."""
    config = ConfigDict(
        {
            "seed": 0,
            "data": {
                "name": "cityscapes_fine",
                "image_size": (512, 1024),
                "scale": (0.5, 2.0),
                "flip": True,
                "color_jitter": 0.4,
                "mean": (123.7, 116.3, 103.5),
                "std": (58.4, 57.1, 57.4),
                "workers": 16,
            },
            "model": {
                "name": "resnet",
                "stage_sizes": (3, 4, 6, 3),
                "block": "bottleneck",
                "width": 64,
                "decoder": "fpn",
                "decoder_channels": (256, 128),
                "decoder_dropout": 0.1,
            },
            "task": {"region": "none"},
            "optimizer": {
                "name": "adamw",
                "learning_rate": 5e-4,
                "schedule": "cosine",
                "warmup_steps": 1500,
                "weight_decay": 0.05,
                "clip_norm": 1.0,
            },
            "train": {
                "steps": 65_000,
                "batch_size": 32,
                "eval_batch_size": 32,
                "eval_every": 2500,
                "checkpoint_every": 2500,
                "log_every": 100,
                "select": "best",
            },
            "precision": {"compute": "bfloat16"},
        }
    )
    if variant == "smoke":  # generated coloured shapes; no download
        config.data.update(name="coloured_shapes", image_size=(48, 64), workers=0, mean=(120.0,), std=(40.0,))
        config.model.update(stage_sizes=(1, 1), width=4, decoder_channels=(8, 8))
        config.task.region = "lovasz"
        config.optimizer.warmup_steps = 1
        config.train.update(steps=2, batch_size=8, eval_batch_size=16, eval_every=2, checkpoint_every=2, log_every=1)
        config.precision.compute = "float32"
    return config
