"""A U-Net over a small ResNet on CamVid: 367 driving scenes of 240 x 180 px, 11 classes, from scratch.

    python -m research.data prepare camvid --manual_dir=$DATA/camvid
    python -m experiments.driving_segmentation.main \\
      --config=configs/driving_segmentation/camvid_unet.py:cpu --workdir=runs/camvid_unet

Cross-entropy with class weights plus the Dice loss, since mIoU weights poles and roads alike. Augmentation: random
crops at scales 0.75 to 1.75, horizontal flips, color jitter. Images are standardised one by one, since one of the test
drives is at dusk. The checkpoint with the best validation mIoU is tested, with flip test-time augmentation. Learning
rate and color jitter were chosen on validation (configs/sweeps/camvid_unet.toml).
References (mIoU at 480 x 360 px, so not fully comparable): SegNet 55.6, Bayesian SegNet 63.1 (Kendall et al., 2017),
FC-DenseNet103 66.9 (Jégou et al., 2017). `full`: a ResNet-34, for a GPU. `smoke`: seconds, generated shapes.
"""

import math

from ml_collections import ConfigDict

from experiments.driving_segmentation.experiment import DrivingSegmentation

EXPERIMENT = DrivingSegmentation
VARIANTS = ("full", "cpu", "smoke")

RESULT = {
    "metric": "test/miou",
    "reference": 0.631,
    "reference_source": "Bayesian SegNet at 480 x 360 px, Kendall et al. 2017",
}
# Class shares of the labelled pixels of train: sky, building, pole, road, pavement, tree, sign, fence, car, pedestrian,
# bicyclist; printed by `prepare`.
SHARES = (0.174, 0.242, 0.010, 0.331, 0.047, 0.101, 0.012, 0.012, 0.061, 0.007, 0.003)


def get_config(variant: str = "full") -> ConfigDict:
    """The config of one of VARIANTS."""
    config = ConfigDict(
        {
            "seed": 0,
            "data": {
                "name": "camvid",
                "scale": (0.75, 1.75),
                "flip": True,
                "color_jitter": 0.3,
                "mean": (80.0, 85.0, 89.0),  # padding colour; images are standardised one by one
                "workers": 4,
            },
            "model": {
                "name": "resnet",
                "stage_sizes": (3, 4, 6, 3),
                "block": "basic",
                "width": 64,
                "stem": "half",
                "decoder": "unet",
                "decoder_channels": (256, 128, 64),
                "decoder_dropout": 0.1,
            },
            "task": {
                "class_weights": tuple(round(1 / math.log(1.1 + share), 2) for share in SHARES),  # ENet's, softer
                "region": "dice",
                "region_weight": 1.0,
                "per_image_standardization": True,
                "flip_tta": True,
            },
            "optimizer": {
                "name": "adamw",
                "learning_rate": 1e-3,
                "schedule": "cosine",
                "warmup_steps": 500,
                "weight_decay": 0.05,
                "clip_norm": 1.0,
            },
            "train": {
                "steps": 6000,
                "batch_size": 16,
                "eval_batch_size": 16,
                "eval_every": 1000,
                "checkpoint_every": 1000,
                "log_every": 100,
                "ema": 0.999,
                "select": "best",
            },
        }
    )
    if variant == "cpu":
        config.data.workers = 0
        config.model.update(stage_sizes=(1, 2, 2, 2), width=24, decoder_channels=(96, 48, 32))
        config.optimizer.update(learning_rate=3e-3, warmup_steps=100)
        config.train.update(steps=4000, batch_size=8, eval_every=200, checkpoint_every=200, log_every=25, ema=0.99)
    if variant == "smoke":
        config.data.update(name="coloured_shapes", scale=(0.8, 1.25), color_jitter=0.1, mean=(120.0,), workers=0)
        config.model.update(stage_sizes=(1, 1), width=8, decoder_channels=(8,))
        config.task.class_weights = (0.4, 1.0, 1.0, 1.0)
        config.optimizer.warmup_steps = 2
        config.train.update(steps=6, batch_size=8, eval_batch_size=16, eval_every=3, checkpoint_every=3, log_every=1)
    return config
