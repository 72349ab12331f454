"""A CNN with a whitening convolution, trained on CIFAR-10 for few epochs (JPEG copies of the images, 45k/5k/10k).

    python -m research.data prepare cifar10_jpeg --manual_dir=$DATA/cifar10

Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", 2024 (arXiv 2404.00498, KellerJordan/cifar10-airbench).
`full`: airbench95, widths 128, 384 and 384, 15 epochs: 95.01 % when trained on all 50,000 images.
`cpu`: airbench94, widths 64, 256 and 256, 10 epochs: 94.01 % likewise; sized for an hour of 2 CPU cores.

What differs from the publication: batches of 256 instead of 1,024 images, with the learning rate in proportion and the
decays of both moving averages adapted; the average of the weights is evaluated, but not copied back (lookahead); the
warm-up begins at 0; the bias of the whitening convolution is trained to the end; biases have no weight decay. Published
learning rates are for sums of losses over 1,024 images, and multiplied by 1 + 1 / (1 - momentum).
"""

from ml_collections import ConfigDict

from experiments.image_classification.experiment import ImageClassification

EXPERIMENT = ImageClassification
VARIANTS = ("full", "cpu", "smoke")

TRAIN, BATCH_SIZE, MOMENTUM = 45_000, 256, 0.85
PUBLISHED = 1024  # the batch size of the publication
STEP = 1 + 1 / (1 - MOMENTUM)  # step size of Nesterov's momentum, relative to a constant gradient

RESULT = {
    "metric": "test/accuracy",
    "reference": 0.9501,
    "reference_source": "airbench95, Jordan 2024, on 50,000 training images",
    "cpu": {"reference": 0.9401, "reference_source": "airbench94, Jordan 2024, on 50,000 training images"},
}


def get_config(variant: str = "full") -> ConfigDict:
    """The config of one of VARIANTS."""
    epochs, rate = (10, 11.5) if variant == "cpu" else (15, 10.0)
    steps = TRAIN * epochs // BATCH_SIZE
    config = ConfigDict(
        {
            "seed": 0,
            "data": {
                "name": "cifar10_jpeg",
                "image_size": 32,
                "crop": "pad",
                "pad": 2,
                "pad_mode": "reflect",
                "flip": True,
                "alternating_flip": True,
                "mean": (125.3, 123.0, 113.9),
                "std": (63.0, 62.1, 66.7),
                "cache": True,
            },
            "model": {
                "name": "whitened_cnn",
                "widths": (128, 384, 384),
                "momentum": 0.6 ** (BATCH_SIZE / PUBLISHED),
            },
            "task": {"label_smoothing": 0.2, "tta": "flip_shift"},
            "optimizer": {
                "name": "sgd",
                "learning_rate": rate / STEP * BATCH_SIZE / PUBLISHED,
                "momentum": MOMENTUM,
                "nesterov": True,
                "schedule": "linear",
                "warmup_steps": steps * 23 // 100,
                "final_fraction": 0.07,
                "weight_decay": 0.0153 / rate,
                "multipliers": (("norm[12]/bias", 64.0),),
                "freeze": ("^whitening/kernel$",),
            },
            "train": {
                "steps": steps,
                "batch_size": BATCH_SIZE,
                "eval_batch_size": 500,
                "eval_every": 1000,
                "checkpoint_every": 250,
                "log_every": 50,
                "ema": 0.95 ** (BATCH_SIZE / PUBLISHED),
            },
        }
    )
    if variant == "cpu":
        config.model.widths = (64, 256, 256)
        config.train.eval_every = 900
    if variant == "smoke":
        config.model.widths = (8, 8, 8)
        config.optimizer.warmup_steps = 2
        config.train.update(steps=6, batch_size=32, eval_batch_size=250, eval_every=3, checkpoint_every=3, log_every=1)
    return config
