"""Face identification on ORL (40 people) with DP-SGD: epsilon 5.87 at delta 1e-5 for each of the 160 training images.

`full` and `cpu` are the same. Epsilon needs dp-accounting (see docs/privacy.md).

    python -m research.data prepare orl_faces/identification --manual_dir=$DATA/orl_faces
    python -m experiments.face_recognition.main \\
      --config=configs/face_recognition/orl_private.py:cpu --workdir=runs/orl_private

The split is that of orl_identification. The guarantee is for single images, of which each person has four in train, and
for the model: the gallery, with which test images are compared, is not private.
The model is a small ViT, since noise grows with the number of parameters and batch norm mixes examples; softmax over
cosines without margin. Learning rate and clipping threshold were chosen on validation among four settings of the same
epsilon (configs/sweeps/orl_private.toml).
Floor: chance. Reference: orl_identification, without privacy, on the same split.
`smoke`: seconds, on random patterns.
"""

from ml_collections import ConfigDict

from experiments.face_recognition.experiment import FaceRecognition

EXPERIMENT = FaceRecognition
VARIANTS = ("full", "cpu", "smoke")

RESULT = {
    "metric": "test/identification",
    "also": ("test/auc",),
    "floor": 0.025,
    "floor_source": "chance",
    "reference": None,
    "reference_source": "",
}


def get_config(variant: str = "full") -> ConfigDict:
    """The config of one of VARIANTS."""
    config = ConfigDict(
        {
            "seed": 0,
            "data": {
                "name": "orl_faces/identification",
                "image_size": 48,
                "stretch": True,
                "flip": True,
                "mean": (112.0,),
                "std": (50.0,),
                "cache": True,
            },
            "model": {
                "name": "vit",
                "image_size": 48,
                "patch_size": 8,
                "width": 32,
                "depth": 2,
                "mlp_dim": 64,
                "num_heads": 2,
                "embed_dim": 64,
                "embed_norm": "layer",
                "unroll": 2,
            },
            "task": {
                "margin": "none",
                "margin_size": 0.0,
                "scale": 16.0,
                "select_by": "identification",
            },
            "optimizer": {
                "name": "sgd",
                "learning_rate": 0.1,
                "momentum": 0.9,
                "schedule": "cosine",
                "warmup_steps": 10,
            },
            "privacy": {
                "clip_norm": 1.0,
                "noise_multiplier": 4.0,
                "delta": 1e-5,
            },
            "train": {
                "steps": 100,
                "batch_size": 80,
                "eval_batch_size": 100,
                "eval_every": 25,
                "checkpoint_every": 25,
                "log_every": 5,
                "score": "all",
                "ema": 0.9,
            },
        }
    )
    if variant == "smoke":
        config.data.update(name="random_patterns/identification", image_size=16, cache=False)
        config.model.update(image_size=16, width=8, mlp_dim=16, embed_dim=16)
        config.optimizer.warmup_steps = 5
        config.privacy.delta = 0.0
        config.train.update(
            steps=20, batch_size=16, eval_batch_size=48, eval_every=10, checkpoint_every=10, log_every=5
        )
    return config
