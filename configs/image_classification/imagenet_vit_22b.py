"""A ViT of the 22B class on ImageNet: the shape of Dehghani et al., "Scaling Vision Transformers to 22B", 2023.

Parallel attention and MLP, normalised queries and keys, no biases in their projections nor in the norms. The paper
trains on JFT-4B, which is not public, and reports 89.5 % for a linear probe on ImageNet; this config is there to be
planned and to be sharded, not to win. It pools by the mean, where the paper pools by attention. Mesh: fsdp = 64 with
tensor = 4 on 256 chips; remat "full"; Adafactor, since Adam's moments alone would take 174 GB.

    python -m research.data prepare imagenet2012 --manual_dir=ARCHIVES
    python -m experiments.image_classification.main \\
      --config=configs/image_classification/imagenet_vit_22b.py --workdir=runs/imagenet_vit_22b
"""

from ml_collections import ConfigDict

VARIANTS = ("full", "smoke")

RESULT = {
    "metric": "test/accuracy",
    "floor": 0.001,
    "floor_source": "chance",
    "reference": 0.895,
    "reference_source": "Dehghani et al. 2023, linear probe after JFT-4B",
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
                "randaugment_magnitude": 10.0,
            },
            "model": {
                "name": "vit",
                "image_size": 224,
                "patch_size": 14,
                "width": 6144,
                "depth": 48,
                "mlp_dim": 24_576,
                "num_heads": 48,
                "pool": "mean",
                "qkv_bias": False,
                "qk_norm": True,
                "norm_bias": False,
                "parallel": True,
                "remat": "full",
            },
            "task": {
                "mixup": 0.2,
            },
            "optimizer": {
                "name": "adafactor",
                "learning_rate": 0.001,
                "schedule": "rsqrt",
                "warmup_steps": 10_000,
                "clip_norm": 1.0,
            },
            "train": {
                "steps": 112_600,
                "batch_size": 1024,
                "eval_batch_size": 1024,
                "eval_every": 5000,
                "checkpoint_every": 1000,
                "log_every": 50,
            },
            "mesh": {
                "data": -1,
                "fsdp": 64,
                "tensor": 4,
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
