"""A small ViT on the handwritten digits of scikit-learn: 1,797 scans of 8x8 pixels, 10 classes.

`full` and `cpu` are the same. Under 2 minutes on 2 idle CPU cores, 2 min 42 s on loaded ones.

    python -m research.data prepare digits
    python -m experiments.image_classification.main \\
      --config=configs/image_classification/digits_vit.py:cpu --workdir=runs/digits_vit

Reference: none known for this split; `tessera baseline` measures scikit-learn's classifiers.
"""

from ml_collections import ConfigDict

from experiments.image_classification.experiment import ImageClassification

EXPERIMENT = ImageClassification
VARIANTS = ("full", "cpu", "smoke")

RESULT = {
    "metric": "test/accuracy",
    "reference": None,
    "reference_source": "",
}


def get_config(variant: str = "full") -> ConfigDict:
    """The config of one of VARIANTS."""
    smoke = variant == "smoke"
    return ConfigDict(
        {
            "seed": 0,
            "data": {
                "name": "digits",
                "image_size": 8,
                "rotate": 10.0,
                "shift": 0.6,
                "scale": 0.1,
                "mean": (77.0,),
                "std": (96.0,),
            },
            "model": {
                "name": "vit",
                "image_size": 8,
                "patch_size": 2,
                "width": 32 if smoke else 64,
                "depth": 2 if smoke else 4,
                "mlp_dim": 64 if smoke else 128,
                "num_heads": 2 if smoke else 4,
                "pool": "mean",
                "positions": "learned",
                "dropout": 0.1 if smoke else 0.0,
                "stochastic_depth": 0.1,
                "unroll": 4,
            },
            "task": {"label_smoothing": 0.1},
            "optimizer": {
                "name": "adamw",
                "learning_rate": 2e-3,
                "schedule": "cosine",
                "warmup_steps": 5 if smoke else 100,
                "weight_decay": 0.05,
                "clip_norm": 1.0,
            },
            "train": {
                "steps": 20 if smoke else 2500,
                "batch_size": 32 if smoke else 64,
                "eval_batch_size": 128,
                "eval_every": 10 if smoke else 625,
                "checkpoint_every": 10 if smoke else 625,
                "log_every": 5 if smoke else 100,
                "ema": 0.99,
            },
        }
    )
