"""FCOS over a simple feature pyramid and a plain ViT on BCCD: 205 training images of blood cells, from scratch.

    python -m research.data prepare bccd_voc --manual_dir=$DATA/bccd
    python -m experiments.detection.main --config=configs/detection/bccd_vit.py:cpu --workdir=runs/bccd_vit

The pyramid is that of ViTDet (Li et al., 2022): the feature map of the ViT at scales 4, 2, 1 and 1/2. Attention is
global; windows are not needed for images of this size. Data and loss are those of bccd_fcos.
Reference: none known for this split.
`full`: ViT-S with patches of 16 px at 480 x 640 px, for a GPU. `cpu`: a small one at half that size. `smoke`: seconds,
generated shapes.
"""

from ml_collections import ConfigDict

from experiments.detection.experiment import Detection

EXPERIMENT = Detection
VARIANTS = ("full", "cpu", "smoke")

RESULT = {
    "metric": "test/map50",
    "also": ("test/map",),
    "reference": None,
    "reference_source": "",
}


def get_config(variant: str = "full") -> ConfigDict:
    """The config of one of VARIANTS."""
    config = ConfigDict(
        {
            "seed": 0,
            "data": {
                "name": "bccd_voc",
                "image_size": (480, 640),
                "max_boxes": 100,
                "bad_boxes": "clip",
                "scale": (0.6, 1.6),
                "flip": True,
                "vertical_flip": True,
                "color_jitter": 0.2,
                "mosaic": 0.5,
                "mean": (168.0, 156.0, 160.0),
                "std": (57.0, 56.0, 45.0),
                "workers": 4,
            },
            "model": {
                "name": "vit",
                "image_size": 480,
                "image_width": 640,
                "patch_size": 16,
                "width": 384,
                "depth": 12,
                "mlp_dim": 1536,
                "num_heads": 6,
                "pool": "mean",
                "positions": "learned",
                "stochastic_depth": 0.1,
                "finest": 1,
                "pyramid_channels": 256,
                "head_depth": 4,
            },
            "task": {"nms_iou": 0.5, "select_by": "map50"},
            "optimizer": {
                "name": "adamw",
                "learning_rate": 5e-4,
                "schedule": "cosine",
                "warmup_steps": 500,
                "weight_decay": 0.05,
                "clip_norm": 1.0,
            },
            "train": {
                "steps": 10_000,
                "batch_size": 16,
                "eval_batch_size": 16,
                "eval_every": 500,
                "checkpoint_every": 500,
                "log_every": 100,
                "ema": 0.999,
                "select": "best",
                "score": "all",
            },
        }
    )
    if variant == "cpu":
        config.data.update(image_size=(240, 320), workers=0)
        config.model.update(image_size=240, image_width=320, width=128, depth=6, mlp_dim=384, num_heads=4)
        config.model.update(pyramid_channels=64, head_depth=2)
        config.optimizer.update(learning_rate=1e-3, warmup_steps=200)
        config.train.update(steps=2000, batch_size=8, eval_every=250, checkpoint_every=250, log_every=25, ema=0.99)
    if variant == "smoke":
        config.data.update(
            name="boxed_shapes", image_size=(48, 64), max_boxes=16, workers=0, mean=(120.0,), std=(40.0,)
        )
        config.model.update(image_size=48, image_width=64, patch_size=8, width=16, depth=2, mlp_dim=32, num_heads=2)
        config.model.update(pyramid_channels=8, head_depth=1)
        config.optimizer.warmup_steps = 2
        config.train.update(steps=6, batch_size=8, eval_batch_size=16, eval_every=3, checkpoint_every=3, log_every=1)
    return config
