"""Face identification on ORL (40 people): a small ResNet with ArcFace from scratch, on four images per person.

    python -m research.data prepare orl_faces/identification --manual_dir=$DATA/orl_faces
    python -m experiments.face_recognition.main \\
      --config=configs/face_recognition/orl_identification.py:cpu --workdir=runs/orl_identification

Of each person, images 1 to 4 are train, 5 is validation, 6 to 10 are test, identified by the nearest neighbour among
the 200 other images. `full` and `cpu` differ in the number of steps. Illumination and steps were chosen on validation
among four settings (configs/sweeps/orl_identification.toml), of which three identify 39 of the 40 images.
Floor: principal components and the nearest neighbour. Reference: S. Lawrence et al., "Face Recognition: A Convolutional
Neural-Network Approach", 1997: 3.8 % error with five training images per person.
`smoke`: seconds, on random patterns.
"""

from ml_collections import ConfigDict

from experiments.face_recognition.experiment import FaceRecognition

EXPERIMENT = FaceRecognition
VARIANTS = ("full", "cpu", "smoke")

RESULT = {
    "metric": "test/identification",
    "also": ("test/auc",),
    "reference": 0.962,
    "reference_source": "CNN, Lawrence et al. 1997",
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
                "rotate": 8.0,
                "shift": 3.0,
                "scale": 0.12,
                "brightness": 0.2,
                "contrast": 0.3,
                "random_erasing": 0.5,
                "illumination": "equalized",
                "mean": (128.0,),
                "std": (74.0,),
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
                "margin": "arcface",
                "margin_size": 0.3,
                "scale": 16.0,
                "select_by": "identification",
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
        config.data.update(name="random_patterns/identification", image_size=16, cache=False)
        config.model.update(stage_sizes=(1, 1), width=8, embed_dim=16)
        config.optimizer.warmup_steps = 5
        config.train.update(
            steps=20, batch_size=16, eval_batch_size=48, eval_every=10, checkpoint_every=10, log_every=5
        )
    return config
