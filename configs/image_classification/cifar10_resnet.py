"""ResNet on CIFAR-10 (JPEG copies of the images, 45k/5k/10k).

    python -m research.data prepare cifar10_jpeg --manual_dir=$DATA/cifar10

`full`: ResNet-56 as in He et al., "Deep Residual Learning for Image Recognition", 2016, section 4.2: SGD with momentum
0.9, batch 128, 64k steps, learning rate 0.1 (step decay; here a cosine to 0), weight decay 1e-4, pad 4, crop, flip;
93.03 % in table 6. A few hours on one GPU.
`cpu`: the ResNet-20 of the same table (91.25 % after 64k steps of 128 images, 180 epochs) for 17 epochs with a shorter
schedule; within an hour on 2 CPU cores. It trains on random 28 px crops, which take 0.72 of the time of 32 px, and is
evaluated on whole images. Batch 32, whose activations fit into the cache: with batch 128 an image takes 1.4 times as
long. Learning rate and weight decay were chosen on validation (configs/sweeps/cifar10_resnet.toml).
"""

from ml_collections import ConfigDict

from experiments.image_classification.experiment import ImageClassification

EXPERIMENT = ImageClassification
VARIANTS = ("full", "cpu", "smoke")

RESULT = {
    "metric": "test/accuracy",
    "reference": 0.9303,
    "reference_source": "ResNet-56, He et al. 2016, table 6 (64k steps)",
    "cpu": {"reference": 0.9125, "reference_source": "ResNet-20, He et al. 2016, table 6 (64k steps)"},
}


def get_config(variant: str = "full") -> ConfigDict:
    """The config of one of VARIANTS."""
    config = ConfigDict(
        {
            "seed": 0,
            "data": {
                "name": "cifar10_jpeg",
                "image_size": 32,
                "crop": "pad",
                "pad": 4,
                "flip": True,
                "mean": (125.3, 123.0, 113.9),
                "std": (63.0, 62.1, 66.7),
            },
            "model": {
                "name": "resnet",
                "stage_sizes": (9, 9, 9),
                "block": "basic",
                "width": 16,
                "stem": "cifar",
            },
            "task": {"label_smoothing": 0.0},
            "optimizer": {
                "name": "sgd",
                "learning_rate": 0.1,
                "momentum": 0.9,
                "nesterov": True,
                "schedule": "cosine",
                "warmup_steps": 400,
                "weight_decay": 1e-4,
            },
            "train": {
                "steps": 64_000,
                "batch_size": 128,
                "eval_batch_size": 500,
                "eval_every": 2000,
                "checkpoint_every": 1000,
                "log_every": 100,
                "ema": 0.0,
            },
        }
    )
    if variant == "cpu":
        config.model.stage_sizes = (3, 3, 3)
        config.data.update(crop="random", image_size=28, resize=32, eval_size=32, cache=True)
        config.optimizer.update(learning_rate=0.1, warmup_steps=1000, weight_decay=4e-4)
        config.train.update(
            steps=24_000, batch_size=32, eval_every=4800, checkpoint_every=1200, log_every=100, ema=0.999
        )
    if variant == "smoke":
        config.model.update(stage_sizes=(1, 1, 1), width=8)
        config.optimizer.warmup_steps = 2
        config.train.update(steps=6, batch_size=32, eval_batch_size=250, eval_every=3, checkpoint_every=3, log_every=1)
    return config
