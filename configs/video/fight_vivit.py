"""ViViT on surveillance clips, fight or no fight, from scratch, in five folds by source video.

    python -m research.data prepare fight_surv_video/fold0 --manual_dir=$DATA/fight_surv_video
    python -m experiments.video.main --config=configs/video/fight_vivit.py:cpu --workdir=runs/fight_fold0

The result is the mean over the folds, each with --config.data.name=fight_surv_video/fold0 to fold4: about 210 clips to
train on, 30 for validation, 60 for test. 16 frames of 64 px, a token is 8 x 8 px of 2 frames; factorised attention,
over space, then over time (Arnab et al., "ViViT: A Video Vision Transformer", 2021, model 3). The single-frame baseline
is --config.model.space_time=frames --config.model.tubelet=1 --config.model.input_mode=frames. The difference of a frame
to the previous one is a further input, chosen on the validation clips of fold 0 (configs/sweeps/fight_vivit.toml).
`cpu`, for two cores: a narrower model, 8 frames of 48 px, 600 steps.
Floor: a threshold on the mean difference of consecutive frames, fitted on train.
Reference: none is published for these folds.
`smoke`: seconds, on moving digits.
"""

from ml_collections import ConfigDict

from experiments.video.experiment import Video

EXPERIMENT = Video
VARIANTS = ("full", "cpu", "smoke")

RESULT = {
    "metric": "test/accuracy",
    "over": "data.name",
    "reference": None,
    "reference_source": "",
}


def get_config(variant: str = "full") -> ConfigDict:
    """The config of one of VARIANTS."""
    config = ConfigDict(
        {
            "seed": 0,
            "data": {
                "name": "fight_surv_video/fold0",
                "frames": 16,
                "image_size": 64,
                "resize": 72,
                "stretch": True,
                "crop": "random",
                "flip": True,
                "rotate": 5.0,
                "scale": 0.15,
                "brightness": 0.3,
                "contrast": 0.3,
                "random_erasing": 0.5,
                "mean": (110.0,),
                "std": (60.0,),
                "cache": True,
            },
            "model": {
                "frames": 16,
                "tubelet": 2,
                "space_time": "factorised",
                "input_mode": "both",
                "image_size": 64,
                "patch_size": 8,
                "width": 192,
                "depth": 6,
                "mlp_dim": 384,
                "num_heads": 4,
                "dropout": 0.1,
                "stochastic_depth": 0.2,
                "unroll": 6,
            },
            "task": {"label_smoothing": 0.1},
            "optimizer": {
                "name": "adamw",
                "learning_rate": 5e-4,
                "schedule": "cosine",
                "warmup_steps": 200,
                "weight_decay": 0.1,
                "clip_norm": 1.0,
            },
            "train": {
                "steps": 4000,
                "batch_size": 32,
                "eval_batch_size": 32,
                "eval_every": 400,
                "checkpoint_every": 400,
                "log_every": 50,
                "ema": 0.998,
            },
        }
    )
    if variant == "cpu":
        config.data.update(frames=8, image_size=48, resize=54)
        config.model.update(frames=8, image_size=48, width=96, depth=4, mlp_dim=192, unroll=4)
        config.optimizer.update(learning_rate=1e-3, warmup_steps=60)
        config.train.update(steps=600, batch_size=16, eval_every=100, checkpoint_every=100, ema=0.99)
    if variant == "smoke":
        config.data.update(name="moving_digits/motion", frames=8, image_size=16, resize=18, flip=False, cache=False)
        config.model.update(frames=8, image_size=16, patch_size=4, width=16, depth=2, mlp_dim=32, num_heads=2, unroll=2)
        config.optimizer.warmup_steps = 2
        config.train.update(steps=8, batch_size=16, eval_batch_size=80, eval_every=4, checkpoint_every=4, log_every=2)
    return config
