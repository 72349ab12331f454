"""ViT-S/16 on ImageNet at 224 px.

    python -m research.data prepare imagenet2012 --manual_dir=ARCHIVES
    python -m experiments.image_classification.main \\
      --config=configs/image_classification/imagenet_vit_s16.py --workdir=runs/imagenet_vit_s16

Beyer, Zhai and Kolesnikov, "Better plain ViT baselines for ImageNet-1k", 2022: sin-cos positions, mean pool, a linear
head, batch 1024, RandAugment (2, 10), mixup 0.2, 90 epochs, 76.5 % (table 1). Their weight decay of 1e-4 is independent
of the learning rate; it equals optax's 0.1 at a peak learning rate of 1e-3. Two differences: their random crops cover
at least 5 % of the image, ours 8 %, and they draw one mixup coefficient per batch instead of one per image.
Hardware: a TPU v3-8, under 7 hours (paper). Mesh: data=-1, which takes, as planned, 0.7 of 16 GiB per chip on
v5e:16x16. `smoke`: seconds on a CPU.
"""

from ml_collections import ConfigDict

from experiments.image_classification.experiment import ImageClassification

EXPERIMENT = ImageClassification
VARIANTS = ("full", "smoke")

RESULT = {
    "metric": "test/accuracy",
    "floor": 0.001,
    "floor_source": "chance",
    "reference": 0.765,
    "reference_source": "Beyer et al. 2022, 90 epochs",
}


def get_config(variant: str = "full") -> ConfigDict:
    """The config of one of VARIANTS."""
    config = ConfigDict(
        {
            "seed": 0,
            "data": {
                "name": "imagenet2012",
                "image_size": 224,
                "resize": 256,
                "crop": "inception",
                "flip": True,
                "randaugment_layers": 2,
                "randaugment_magnitude": 10.0,
                "workers": 16,
            },
            "model": {
                "name": "vit",
                "image_size": 224,
                "patch_size": 16,
                "width": 384,
                "depth": 12,
                "mlp_dim": 1536,
                "num_heads": 6,
                "pool": "mean",
                "positions": "sincos",
            },
            "task": {"mixup": 0.2},
            "optimizer": {
                "name": "adamw",
                "learning_rate": 1e-3,
                "schedule": "cosine",
                "warmup_steps": 10_000,
                "weight_decay": 0.1,
                "clip_norm": 1.0,
            },
            "train": {
                "steps": 111_450,
                "batch_size": 1024,
                "eval_batch_size": 1024,
                "eval_every": 5000,
                "checkpoint_every": 5000,
                "log_every": 100,
                "ema": 0.0,
            },
            "precision": {"compute": "bfloat16"},
        }
    )
    if variant == "smoke":  # scikit-learn's digits, resized; no download
        config.data.update(name="digits", image_size=32, resize=32, mean=(77.0,), std=(96.0,), workers=0)
        config.model.update(image_size=32, width=32, depth=2, mlp_dim=64, num_heads=2)
        config.optimizer.warmup_steps = 1
        config.train.update(steps=2, batch_size=16, eval_batch_size=120, eval_every=2, log_every=1)
        config.precision.compute = "float32"
    return config
