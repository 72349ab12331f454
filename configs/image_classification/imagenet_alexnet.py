"""AlexNet on ImageNet in its single-tower form: Krizhevsky, "One weird trick for parallelizing CNNs", 2014.

90 epochs, batch 256, SGD with momentum 0.9, weight decay 5e-4, dropout 0.5, pictures of 256 px cropped to 224.
Torchvision's weights of this form reach 56.5 % top-1. Mesh: data = all devices.

    python -m research.data prepare imagenet2012 --manual_dir=ARCHIVES
    python -m experiments.image_classification.main \\
      --config=configs/image_classification/imagenet_alexnet.py --workdir=runs/imagenet_alexnet
"""

from ml_collections import ConfigDict

VARIANTS = ("full", "smoke")

RESULT = {
    "metric": "test/accuracy",
    "floor": 0.001,
    "floor_source": "chance",
    "reference": 0.565,
    "reference_source": "torchvision AlexNet_Weights.IMAGENET1K_V1",
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
                "crop": "random",
                "flip": True,
                "mean": (123.7, 116.3, 103.5),
                "std": (58.4, 57.1, 57.4),
            },
            "model": {
                "name": "alexnet",
                "dropout": 0.5,
            },
            "task": {},
            "optimizer": {
                "name": "sgd",
                "learning_rate": 0.01,
                "momentum": 0.9,
                "schedule": "cosine",
                "warmup_steps": 1000,
                "weight_decay": 0.0005,
            },
            "train": {
                "steps": 450_000,
                "batch_size": 256,
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
        config.model.mlp_dim = 64
        config.optimizer.warmup_steps = 1
        config.train.update(steps=2, batch_size=16, microbatches=1, eval_batch_size=120, eval_every=2, log_every=1)
        config.precision.compute = "float32"
    return config
