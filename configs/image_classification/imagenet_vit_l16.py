"""ViT-L/16 on ImageNet from scratch: the "DeiT III" recipe of Touvron et al., 2022, in our terms.

400 epochs there (here too), batch 2048, LAMB at 3e-3, stochastic depth 0.45, mixup 0.8, cutmix 1.0, weight decay 0.02;
84.5 % at 224 px (their table of 400-epoch ImageNet-1k results). What differs: RandAugment for their 3-Augment, softmax
for their binary cross-entropy, no layer scale. Mesh: fsdp = all devices of a slice; remat "dots".

    python -m research.data prepare imagenet2012 --manual_dir=ARCHIVES
    python -m experiments.image_classification.main \\
      --config=configs/image_classification/imagenet_vit_l16.py --workdir=runs/imagenet_vit_l16
"""

from ml_collections import ConfigDict

VARIANTS = ("full", "smoke")

RESULT = {
    "metric": "test/accuracy",
    "floor": 0.001,
    "floor_source": "chance",
    "reference": 0.845,
    "reference_source": "Touvron et al. 2022, DeiT III, 400 epochs",
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
                "mean": (123.7, 116.3, 103.5),
                "std": (58.4, 57.1, 57.4),
                "randaugment_layers": 2,
                "randaugment_magnitude": 9.0,
            },
            "model": {
                "name": "vit",
                "image_size": 224,
                "patch_size": 16,
                "width": 1024,
                "depth": 24,
                "mlp_dim": 4096,
                "num_heads": 16,
                "pool": "cls",
                "stochastic_depth": 0.45,
                "remat": "dots",
            },
            "task": {
                "mixup": 0.8,
                "cutmix": 1.0,
            },
            "optimizer": {
                "name": "lamb",
                "learning_rate": 0.003,
                "schedule": "cosine",
                "warmup_steps": 3125,
                "weight_decay": 0.02,
                "clip_norm": 1.0,
            },
            "train": {
                "steps": 250_000,
                "batch_size": 2048,
                "eval_batch_size": 1024,
                "eval_every": 5000,
                "checkpoint_every": 1000,
                "log_every": 50,
            },
            "mesh": {
                "data": 1,
                "fsdp": -1,
            },
            "precision": {
                "compute": "bfloat16",
            },
        }
    )
    if variant == "smoke":  # the digits of scikit-learn, enlarged, so that no ImageNet is needed
        config.data.update(name="digits", image_size=32, resize=32, mean=(77.0,), std=(96.0,))
        config.model.update(image_size=32, patch_size=8, width=32, depth=2, mlp_dim=64, num_heads=2)
        config.optimizer.warmup_steps = 1
        config.train.update(steps=2, batch_size=16, microbatches=1, eval_batch_size=120, eval_every=2, log_every=1)
        config.mesh.update(data=-1, fsdp=1, tensor=1)
        config.precision.compute = "float32"
    return config
