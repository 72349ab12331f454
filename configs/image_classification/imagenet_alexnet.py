"""AlexNet on ImageNet at 224 px.

    python -m research.data prepare imagenet2012 --manual_dir=ARCHIVES
    python -m experiments.image_classification.main \\
      --config=configs/image_classification/imagenet_alexnet.py --workdir=runs/imagenet_alexnet

The single tower of Krizhevsky, "One weird trick for parallelizing convolutional neural networks", 2014, with the recipe
of torchvision's reference scripts: SGD with momentum 0.9, batch 256, learning rate 0.01, weight decay 1e-4 on all
parameters, random resized crop, flip, 90 epochs; 56.522 % (torchvision, AlexNet_Weights.IMAGENET1K_V1). A cosine
replaces their step decay (a tenth every 30 epochs). The two towers of Krizhevsky et al., 2012, reached 59.3 %, averaged
over ten crops.
Hardware: one GPU, about a day, most of it decoding images. Mesh: data=-1, which takes, as planned, 0.8 of 16 GiB per
chip on v5e:16x16. `smoke`: seconds on a CPU.
"""

from ml_collections import ConfigDict

from experiments.image_classification.experiment import ImageClassification

EXPERIMENT = ImageClassification
VARIANTS = ("full", "smoke")

RESULT = {
    "metric": "test/accuracy",
    "floor": 0.001,
    "floor_source": "chance",
    "reference": 0.565,
    "reference_source": "torchvision, AlexNet_Weights.IMAGENET1K_V1",
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
            "model": {"name": "alexnet", "dropout": 0.5, "mlp_dim": 4096},
            "optimizer": {
                "name": "sgd",
                "learning_rate": 0.01,
                "momentum": 0.9,
                "schedule": "cosine",
                "warmup_steps": 1000,
                "weight_decay": 1e-4,
                "decay": ("kernel", "bias"),
            },
            "train": {
                "steps": 445_800,
                "batch_size": 256,
                "eval_batch_size": 1024,
                "eval_every": 20_000,
                "checkpoint_every": 20_000,
                "log_every": 100,
                "ema": 0.0,
            },
            "precision": {"compute": "bfloat16"},
        }
    )
    if variant == "smoke":  # scikit-learn's digits, resized; no download
        config.data.update(name="digits", image_size=64, resize=64, mean=(77.0,), std=(96.0,), workers=0)
        config.model.mlp_dim = 32
        config.optimizer.warmup_steps = 1
        config.train.update(steps=2, batch_size=16, eval_batch_size=120, eval_every=2, log_every=1)
        config.precision.compute = "float32"
    return config
