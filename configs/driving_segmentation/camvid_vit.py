"""A plain ViT with a simple feature pyramid and a U-Net decoder on CamVid: 367 driving scenes, from scratch.

    python -m research.data prepare camvid --manual_dir=$DATA/camvid
    python -m experiments.driving_segmentation.main \\
      --config=configs/driving_segmentation/camvid_vit.py:cpu --workdir=runs/camvid_vit

Patches of 12 px, so 15 x 20 tokens. There are too few data for a pure ViT from scratch, so the pyramid of ViTDet (Li et
al., 2022) and the decoder add convolutions. `model.decoder=linear` is the decoder of Segmenter (Strudel et al., 2021).
Loss, augmentation and references are those of camvid_unet. `full`: ViT-S for a GPU. `smoke`: seconds, generated shapes.
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
# As in camvid_unet.py.
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
                "name": "vit",
                "image_size": 180,
                "image_width": 240,
                "patch_size": 12,
                "width": 384,
                "depth": 12,
                "mlp_dim": 1536,
                "num_heads": 6,
                "pool": "mean",
                "positions": "learned",
                "stochastic_depth": 0.1,
                "decoder": "unet",
                "decoder_channels": (256, 128, 64),
                "decoder_dropout": 0.1,
            },
            "task": {
                "class_weights": tuple(round(1 / math.log(1.1 + share), 2) for share in SHARES),
                "region": "dice",
                "region_weight": 1.0,
                "per_image_standardization": True,
                "flip_tta": True,
            },
            "optimizer": {
                "name": "adamw",
                "learning_rate": 5e-4,
                "schedule": "cosine",
                "warmup_steps": 1000,
                "weight_decay": 0.05,
                "clip_norm": 1.0,
            },
            "train": {
                "steps": 16_000,
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
        config.model.update(width=128, depth=6, mlp_dim=384, num_heads=4, decoder_channels=(96, 64, 32))
        config.optimizer.update(learning_rate=1e-3, warmup_steps=200)
        config.train.update(steps=2500, batch_size=8, eval_every=250, checkpoint_every=250, log_every=25, ema=0.99)
    if variant == "smoke":
        config.data.update(name="coloured_shapes", scale=(0.8, 1.25), color_jitter=0.1, mean=(120.0,), workers=0)
        config.model.update(image_size=48, image_width=64, patch_size=8, width=16, depth=2, mlp_dim=32, num_heads=2)
        config.model.decoder_channels = (8, 8, 8)
        config.task.class_weights = (0.4, 1.0, 1.0, 1.0)
        config.optimizer.warmup_steps = 2
        config.train.update(steps=6, batch_size=8, eval_batch_size=16, eval_every=3, checkpoint_every=3, log_every=1)
    return config
