"""A small ViT on scikit-learn's handwritten digits, trained with DP-SGD: epsilon 7.94 at delta 1e-5 for each scan.

`full` and `cpu` are the same. Epsilon needs dp-accounting (see docs/privacy.md).

    python -m research.data prepare digits
    python -m experiments.image_classification.main \\
      --config=configs/image_classification/digits_private.py:cpu --workdir=runs/digits_private

Noise grows with the number of parameters, so the model is smaller than in digits_vit, and without dropout and label
smoothing. Batches are large: a batch has a scan with probability 256 / 1293. Learning rate and clipping threshold were
chosen on validation among four settings of the same epsilon (configs/sweeps/digits_private.toml).
Floor: chance. Reference: digits_vit, without privacy, on the same split.
`smoke`: seconds.
"""

from ml_collections import ConfigDict

from experiments.image_classification.experiment import ImageClassification

EXPERIMENT = ImageClassification
VARIANTS = ("full", "cpu", "smoke")

RESULT = {
    "metric": "test/accuracy",
    "floor": 0.1,
    "floor_source": "chance",
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
                "shift": 0.6,
                "mean": (77.0,),
                "std": (96.0,),
            },
            "model": {
                "name": "vit",
                "image_size": 8,
                "patch_size": 2,
                "width": 32,
                "depth": 2,
                "mlp_dim": 64,
                "num_heads": 2,
                "pool": "mean",
                "positions": "learned",
                "unroll": 2,
            },
            "optimizer": {
                "name": "sgd",
                "learning_rate": 1.0,
                "momentum": 0.9,
                "schedule": "cosine",
                "warmup_steps": 5 if smoke else 20,
            },
            "privacy": {
                "clip_norm": 0.3,
                "noise_multiplier": 2.8,
                "delta": 0.0 if smoke else 1e-5,
            },
            "train": {
                "steps": 20 if smoke else 500,
                "batch_size": 32 if smoke else 256,
                "microbatches": 1 if smoke else 4,
                "eval_batch_size": 128,
                "eval_every": 10 if smoke else 100,
                "checkpoint_every": 10 if smoke else 100,
                "log_every": 5 if smoke else 20,
                "ema": 0.99,
            },
        }
    )
