"""ResNet-50 on ImageNet: Goyal et al., "Accurate, Large Minibatch SGD", 2017.

90 epochs, batch 1024, learning rate 0.1 per 256 examples after 5 epochs of warm-up (there in steps, here a cosine),
weight decay 1e-4, the last batch-norm scale of a block starts at 0: 76.4 % top-1 at batch 256 (table 1: 23.60 % error).
Mesh: data = all devices.

    python -m research.data prepare imagenet2012 --manual_dir=ARCHIVES
    python -m experiments.image_classification.main \\
      --config=configs/image_classification/imagenet_resnet50.py --workdir=runs/imagenet_resnet50
"""

from ml_collections import ConfigDict

VARIANTS = ("full", "smoke")

RESULT = {
    "metric": "test/accuracy",
    "floor": 0.001,
    "floor_source": "chance",
    "reference": 0.764,
    "reference_source": "Goyal et al. 2017, table 1, batch 256",
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
            },
            "model": {
                "name": "resnet",
                "stage_sizes": (3, 4, 6, 3),
                "block": "bottleneck",
                "width": 64,
                "stem": "imagenet",
            },
            "task": {},
            "optimizer": {
                "name": "sgd",
                "learning_rate": 0.4,
                "momentum": 0.9,
                "nesterov": True,
                "schedule": "cosine",
                "warmup_steps": 6250,
                "weight_decay": 0.0001,
            },
            "train": {
                "steps": 112_600,
                "batch_size": 1024,
                "eval_batch_size": 1024,
                "eval_every": 5000,
                "checkpoint_every": 1000,
                "log_every": 50,
            },
            "precision": {
                "compute": "bfloat16",
            },
        }
    )
    if variant == "smoke":  # the digits of scikit-learn, enlarged, so that no ImageNet is needed
        config.data.update(name="digits", image_size=64, resize=64, mean=(77.0,), std=(96.0,))
        config.model.update(stage_sizes=(1, 1, 1, 1), width=8)
        config.optimizer.warmup_steps = 1
        config.train.update(steps=2, batch_size=16, microbatches=1, eval_batch_size=120, eval_every=2, log_every=1)
        config.precision.compute = "float32"
    return config
