"""ResNet-50 (v1.5) on ImageNet at 224 px.

    python -m research.data prepare imagenet2012 --manual_dir=ARCHIVES
    python -m experiments.image_classification.main \\
      --config=configs/image_classification/imagenet_resnet50.py --workdir=runs/imagenet_resnet50

Goyal et al., "Accurate, Large Minibatch SGD: Training ImageNet in 1 Hour", 2017: Nesterov momentum 0.9, learning rate
0.1 per 256 images of the batch after 5 epochs of warm-up, weight decay 1e-4 on kernels, the scale of the last batch
norm of a block is initialised with 0, 90 epochs; 76.40 % with a batch of 256 (table 1), and the same up to 8192. Here
the batch is 1024, batch norm statistics are over the whole batch instead of 32 images, and a cosine replaces step
decay.
Hardware: a TPU v3-8 or 8 GPUs, some hours. Mesh: data=-1, which takes, as planned, 0.6 of 16 GiB per chip on v5e:16x16.
`smoke`: seconds on a CPU.
"""

from ml_collections import ConfigDict

from experiments.image_classification.experiment import ImageClassification

EXPERIMENT = ImageClassification
VARIANTS = ("full", "smoke")

RESULT = {
    "metric": "test/accuracy",
    "floor": 0.001,
    "floor_source": "chance",
    "reference": 0.764,
    "reference_source": "Goyal et al. 2017, table 1",
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
                "mean": (123.675, 116.28, 103.53),
                "std": (58.395, 57.12, 57.375),
                "workers": 16,
            },
            "model": {
                "name": "resnet",
                "stage_sizes": (3, 4, 6, 3),
                "block": "bottleneck",
                "width": 64,
                "stem": "imagenet",
                "zero_init_residual": True,
            },
            "optimizer": {
                "name": "sgd",
                "learning_rate": 0.4,
                "momentum": 0.9,
                "nesterov": True,
                "schedule": "cosine",
                "warmup_steps": 6190,
                "weight_decay": 1e-4,
            },
            "train": {
                "steps": 111_450,
                "batch_size": 1024,
                "eval_batch_size": 1024,
                "eval_every": 5000,
                "checkpoint_every": 5000,
                "log_every": 100,
                "ema": 0.0,
            },
            "precision": {"compute": "bfloat16"},
        }
    )
    if variant == "smoke":  # scikit-learn's digits, resized; no download
        config.data.update(name="digits", image_size=32, resize=32, mean=(77.0,), std=(96.0,), workers=0)
        config.model.update(stage_sizes=(1, 1, 1, 1), width=8)
        config.optimizer.warmup_steps = 1
        config.train.update(steps=2, batch_size=16, eval_batch_size=120, eval_every=2, log_every=1)
        config.precision.compute = "float32"
    return config
