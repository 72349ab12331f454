"""ConvNeXt-T on ImageNet at 224 px.

    python -m research.data prepare imagenet2012 --manual_dir=ARCHIVES
    python -m experiments.image_classification.main \\
      --config=configs/image_classification/imagenet_convnext_t.py --workdir=runs/imagenet_convnext_t

Liu et al., "A ConvNet for the 2020s", 2022, table 5: AdamW, batch 4096, learning rate 4e-3, 20 epochs of warm-up, 300
epochs, weight decay 0.05, RandAugment (2, 9), mixup 0.8, cutmix 1.0, label smoothing 0.1, stochastic depth 0.1, layer
scale 1e-6, EMA 0.9999 (here with a warm-up); 82.1 % (table 1). Two differences: the paper also uses random erasing, and
draws one mixup coefficient per batch instead of one per image.
Hardware: 32 GPUs (theirs) or 32 TPU chips, 128 images on each. Mesh: data=-1, which takes, as planned, 1.5 of 16 GiB
per chip on v5e:16x16. `smoke`: seconds on a CPU.
"""

from ml_collections import ConfigDict

from experiments.image_classification.experiment import ImageClassification

EXPERIMENT = ImageClassification
VARIANTS = ("full", "smoke")

RESULT = {
    "metric": "test/accuracy",
    "floor": 0.001,
    "floor_source": "chance",
    "reference": 0.821,
    "reference_source": "Liu et al. 2022, table 1",
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
                "randaugment_layers": 2,
                "randaugment_magnitude": 9.0,
                "mean": (123.675, 116.28, 103.53),
                "std": (58.395, 57.12, 57.375),
                "workers": 16,
            },
            "model": {
                "name": "convnext",
                "stage_sizes": (3, 3, 9, 3),
                "widths": (96, 192, 384, 768),
                "stochastic_depth": 0.1,
                "layer_scale": 1e-6,
            },
            "task": {"label_smoothing": 0.1, "mixup": 0.8, "cutmix": 1.0},
            "optimizer": {
                "name": "adamw",
                "learning_rate": 4e-3,
                "schedule": "cosine",
                "warmup_steps": 6190,
                "weight_decay": 0.05,
            },
            "train": {
                "steps": 92_870,
                "batch_size": 4096,
                "eval_batch_size": 1024,
                "eval_every": 3000,
                "checkpoint_every": 3000,
                "log_every": 100,
                "ema": 0.9999,
            },
            "precision": {"compute": "bfloat16"},
        }
    )
    if variant == "smoke":  # scikit-learn's digits, resized; no download
        config.data.update(name="digits", image_size=32, resize=32, mean=(77.0,), std=(96.0,), workers=0)
        config.model.update(stage_sizes=(1, 1, 1, 1), widths=(8, 16, 32, 64))
        config.optimizer.warmup_steps = 1
        config.train.update(steps=2, batch_size=16, eval_batch_size=120, eval_every=2, log_every=1)
        config.precision.compute = "float32"
    return config
