"""ViViT on moving digits: eight classes of motion (direction and speed) that a single frame does not show.

    python -m research.data prepare moving_digits/motion
    python -m experiments.video.main --config=configs/video/digits_vivit.py:cpu --workdir=runs/digits_vivit

The digits are those of scikit-learn, each on a torus of 16 px, so that all positions are equally likely in every frame.
A token is 4 x 4 px of 2 frames; attention is joint over space and time (Arnab et al., "ViViT: A Video Vision
Transformer", 2021, model 1). `full` and `cpu` are the same.
Floor: logistic regression on statistics of frame differences; a single-frame model stays at chance, 1/8. Reference:
none is published, since this data set is specific to this repository.
"""

from ml_collections import ConfigDict

from experiments.video.experiment import Video

EXPERIMENT = Video
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
                "name": "moving_digits/motion",
                "image_size": 16,
                "brightness": 0.2,
                "mean": (30.0,),
                "std": (60.0,),
                "cache": True,
            },
            "model": {
                "frames": 8,
                "tubelet": 2,
                "space_time": "joint",
                "image_size": 16,
                "patch_size": 4,
                "width": 16 if smoke else 64,
                "depth": 2 if smoke else 3,
                "mlp_dim": 32 if smoke else 128,
                "num_heads": 2 if smoke else 4,
                "unroll": 3,
            },
            "optimizer": {
                "name": "adamw",
                "learning_rate": 2e-3,
                "schedule": "cosine",
                "warmup_steps": 2 if smoke else 100,
                "weight_decay": 0.05,
                "clip_norm": 1.0,
            },
            "train": {
                "steps": 8 if smoke else 2000,
                "batch_size": 16 if smoke else 32,
                "eval_batch_size": 100,
                "eval_every": 4 if smoke else 500,
                "checkpoint_every": 4 if smoke else 500,
                "log_every": 2 if smoke else 50,
                "ema": 0.99,
            },
        }
    )
