"""Face verification of unseen people on ORL: a small ResNet with CosFace from scratch, on 24 people.

    python -m research.data prepare orl_faces/verification --manual_dir=$DATA/orl_faces
    python -m experiments.face_recognition.main \\
      --config=configs/face_recognition/orl_verification.py:cpu --workdir=runs/orl_verification

Of s1 to s30 every fifth person is validation, the others train; the test split is 450 same-person and 450
different-person pairs of s31 to s40. --config.data.fit_on=train+validation trains on all thirty.
Illumination is not normalised: with histogram equalisation, the AUC of the people in validation is lower by 0.002, with
Tan-Triggs normalisation by 0.019 (configs/sweeps/orl_verification.toml).
`full` and `cpu` differ in the number of steps.
Floor: PCA and LDA fitted on the people in train. Reference: none is published for these pairs.
`smoke`: seconds, on random patterns.
"""

from ml_collections import ConfigDict

from experiments.face_recognition.experiment import FaceRecognition

EXPERIMENT = FaceRecognition
VARIANTS = ("full", "cpu", "smoke")

RESULT = {
    "metric": "test/auc",
    "also": ("test/eer", "test/tar_at_far_1e-2", "test/pair_accuracy"),
    "reference": None,
    "reference_source": "",
}


def get_config(variant: str = "full") -> ConfigDict:
    """The config of one of VARIANTS."""
    config = ConfigDict(
        {
            "seed": 0,
            "data": {
                "name": "orl_faces/verification",
                "image_size": 48,
                "stretch": True,
                "flip": True,
                "rotate": 8.0,
                "shift": 3.0,
                "scale": 0.12,
                "random_erasing": 0.5,
                "mean": (112.0,),
                "std": (50.0,),
                "cache": True,
            },
            "model": {
                "name": "resnet",
                "stage_sizes": (2, 2, 2, 2),
                "block": "basic",
                "width": 16,
                "stem": "half",
                "embed_dim": 128,
                "flatten": True,
                "embed_dropout": 0.2,
            },
            "task": {
                "margin": "cosface",
                "margin_size": 0.2,
                "scale": 16.0,
                "metrics": ("verification",),
                "select_by": "auc",
            },
            "optimizer": {
                "name": "adamw",
                "learning_rate": 2e-3,
                "schedule": "cosine",
                "warmup_steps": 100,
                "weight_decay": 0.05,
                "clip_norm": 1.0,
            },
            "train": {
                "steps": 5000,
                "batch_size": 32,
                "eval_batch_size": 100,
                "eval_every": 500,
                "checkpoint_every": 500,
                "log_every": 50,
                "score": "all",
                "ema": 0.995,
            },
        }
    )
    if variant == "cpu":
        config.train.update(steps=1500, ema=0.99)
    if variant == "smoke":
        config.data.update(name="random_patterns/verification", image_size=16, cache=False)
        config.model.update(stage_sizes=(1, 1), width=8, embed_dim=16)
        config.optimizer.warmup_steps = 5
        config.train.update(
            steps=20, batch_size=16, eval_batch_size=48, eval_every=10, checkpoint_every=10, log_every=5
        )
    return config
