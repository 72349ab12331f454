"""A ViT with the shape of ViT-22B on ImageNet at 224 px: an example for planning and sharding, without results.

    python -m research.data prepare imagenet2012 --manual_dir=ARCHIVES
    python -m experiments.image_classification.main \\
      --config=configs/image_classification/imagenet_vit_22b.py --workdir=runs/imagenet_vit_22b

The shape of Dehghani et al., "Scaling Vision Transformers to 22 Billion Parameters", 2023: parallel attention and MLP,
normalised queries and keys, no biases in their projections, all norms without bias and centering; Adafactor with
momentum 0.9, rsqrt schedule, learning rate 1e-3 after 10k steps of warm-up. The paper trains on JFT-4B, which is not
public, and reports 89.5 % for a linear probe on ImageNet; no result from ImageNet alone is known. It uses attention
pooling; here mean pooling. optax does not multiply Adafactor's decay by the learning rate: 3e-5 a step is their 0.03 at
the peak.
Hardware: 256 TPU chips. Mesh: fsdp=64, tensor=4; remat "full"; as planned, 5.0 of 16 GiB per chip on v5e:16x16, 5.3 of
32 on v6e:16x16, and with fsdp=32, tensor=4 10.1 of 95 on v5p:4x4x8. Parameters and momentum take 8 bytes per parameter,
174 GB over all chips. `smoke`: two narrow layers on one device, seconds on a CPU.
"""

from ml_collections import ConfigDict

from experiments.image_classification.experiment import ImageClassification

EXPERIMENT = ImageClassification
VARIANTS = ("full", "smoke")

RESULT = {
    "metric": "test/accuracy",
    "floor": 0.001,
    "floor_source": "chance",
    "reference": 0.895,
    "reference_source": "Dehghani et al. 2023, linear probe after JFT-4B",
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
                "randaugment_magnitude": 10.0,
                "workers": 16,
            },
            "model": {
                "name": "vit",
                "image_size": 224,
                "patch_size": 14,
                "width": 6144,
                "depth": 48,
                "mlp_dim": 24_576,
                "num_heads": 48,
                "pool": "mean",
                "qkv_bias": False,
                "qk_norm": True,
                "norm": "rms",
                "parallel": True,
                "remat": "full",
            },
            "task": {"mixup": 0.2},
            "optimizer": {
                "name": "adafactor",
                "learning_rate": 1e-3,
                "schedule": "rsqrt",
                "warmup_steps": 10_000,
                "momentum": 0.9,
                "multiply_by_parameter_scale": False,
                "weight_decay": 3e-5,
                "clip_norm": 1.0,
            },
            "train": {
                "steps": 111_450,
                "batch_size": 1024,
                "eval_batch_size": 1024,
                "eval_every": 1000,
                "checkpoint_every": 1000,
                "log_every": 100,
                "ema": 0.0,
            },
            "mesh": {"data": -1, "fsdp": 64, "tensor": 4},
            "precision": {"compute": "bfloat16"},
        }
    )
    if variant == "smoke":  # scikit-learn's digits, resized; no download
        config.data.update(name="digits", image_size=28, resize=28, mean=(77.0,), std=(96.0,), workers=0)
        config.model.update(image_size=28, width=32, depth=2, mlp_dim=64, num_heads=2)
        config.mesh.update(fsdp=1, tensor=1)
        config.optimizer.warmup_steps = 1
        config.train.update(steps=2, batch_size=16, eval_batch_size=120, eval_every=2, log_every=1)
        config.precision.compute = "float32"
    return config
