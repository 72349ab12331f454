"""A small ViT on CIFAR-10 (JPEG copies of the images, 45k/5k/10k).

    python -m research.data prepare cifar10_jpeg --manual_dir=$DATA/cifar10
    python -m experiments.image_classification.main \\
      --config=configs/image_classification/cifar10_vit.py:cpu --workdir=runs/cifar10_vit

`full`: width 384, depth 7, patch 4, 200 epochs with RandAugment, mixup and cutmix: a few hours on one GPU.
`cpu`: width 96, depth 6, patch 8 behind three convolutions of 96, 192 and 384 channels (Xiao et al., "Early
Convolutions Help Transformers See Better", 2021), 28 epochs: 1 h 17 min on one CPU core, beside another training.
Settings were compared on validation, see configs/sweeps/cifar10_vit.toml and the page of the experiment.

Reference: none for this setting; for comparison, ResNet-20, He et al. 2016, table 6.
"""

from ml_collections import ConfigDict

from experiments.image_classification.experiment import ImageClassification

EXPERIMENT = ImageClassification
VARIANTS = ("full", "cpu", "smoke")

RESULT = {
    "metric": "test/accuracy",
    "reference": 0.9125,
    "reference_source": "ResNet-20, He et al. 2016, table 6",
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
                "randaugment_layers": 2,
                "randaugment_magnitude": 9.0,
                "mean": (125.3, 123.0, 113.9),
                "std": (63.0, 62.1, 66.7),
            },
            "model": {
                "name": "vit",
                "image_size": 32,
                "patch_size": 4,
                "width": 384,
                "depth": 7,
                "mlp_dim": 1536,
                "num_heads": 6,
                "pool": "mean",
                "stochastic_depth": 0.1,
                "unroll": 7,
            },
            "task": {"label_smoothing": 0.1, "mixup": 0.8, "cutmix": 1.0},
            "optimizer": {
                "name": "adamw",
                "learning_rate": 1e-3,
                "schedule": "cosine",
                "warmup_steps": 1750,
                "weight_decay": 0.05,
                "clip_norm": 1.0,
            },
            "train": {
                "steps": 70_000,
                "batch_size": 128,
                "eval_batch_size": 500,
                "eval_every": 3500,
                "checkpoint_every": 1750,
                "log_every": 100,
                "ema": 0.9998,
            },
        }
    )
    if variant == "cpu":
        config.data.randaugment_layers = 0
        config.model.update(stem="conv", stem_width=384, patch_size=8, width=96, depth=6, mlp_dim=192, num_heads=3)
        config.model.update(stochastic_depth=0.0, unroll=6)
        config.task.update(mixup=0.0, cutmix=0.0)
        config.optimizer.update(learning_rate=2e-3, warmup_steps=500)
        config.train.update(
            steps=20_000, batch_size=64, eval_every=4000, checkpoint_every=1000, log_every=100, ema=0.999
        )
    if variant == "smoke":
        config.model.update(width=32, depth=2, mlp_dim=64, num_heads=2, unroll=1)
        config.optimizer.warmup_steps = 2
        config.train.update(steps=6, batch_size=32, eval_batch_size=250, eval_every=3, checkpoint_every=3, log_every=1)
    return config
