"""English to German with 11 billion parameters, WMT 2014: an example for planning and sharding, without results.

    python -m research.data prepare wmt14_translate/de-en
    python -m experiments.translation.main \\
      --config=configs/translation/wmt14_en_de_t5_11b.py --workdir=runs/wmt14_en_de_t5_11b

The shape of T5 v1.1 XXL (Shazeer, "GLU Variants Improve Transformer", 2020), trained as Raffel et al., "Exploring the
Limits of Transfer Learning with a Unified Text-to-Text Transformer", 2020, train: 2^18 steps of 128 rows of 512 tokens,
Adafactor without momentum, dropout 0.1, a vocabulary of 32k, beam 4. Their model was pre-trained on a trillion tokens
of C4 and fine-tuned with a constant learning rate of 1e-3; from scratch, as here, the schedule is that of their
pre-training, 0.01 for 10k steps (here a warm-up), then inverse square root, and their 32.1 BLEU are out of reach. Here
there is also a z-loss of 1e-4, which keeps the logits small.
Hardware: 256 TPU chips. Mesh: fsdp=64, tensor=4; remat "full"; as planned, 2.1 of 16 GiB per chip on v5e:16x16.
`smoke`: two narrow layers on one device, number words to digits, seconds on a CPU.
"""

from ml_collections import ConfigDict

from experiments.translation.experiment import Translation

EXPERIMENT = Translation
VARIANTS = ("full", "smoke")

RESULT = {
    "metric": "test/bleu",
    "also": ("test/chrf",),
    "floor": 20.7,
    "floor_source": "phrase-based system of Buck et al. 2014, best of WMT 2014",
    "reference": 32.1,
    "reference_source": "T5-11B, Raffel et al. 2020, table 14, pre-trained",
}


def get_config(variant: str = "full") -> ConfigDict:
    """The config of one of VARIANTS."""
    config = ConfigDict(
        {
            "seed": 0,
            "data": {
                "name": "wmt14_translate/de-en",
                "source": "translate English to German: {en}",
                "target": "{de}",
                "vocab_size": 32_128,
                "source_length": 512,
                "target_length": 512,
                "truncate": True,
                "workers": 8,
            },
            "model": {
                "width": 4096,
                "encoder_depth": 24,
                "decoder_depth": 24,
                "num_heads": 64,
                "kv_dim": 64,
                "mlp_dim": 10_240,
                "dropout": 0.1,
                "remat": "full",
            },
            "task": {
                "z_loss": 1e-4,
                "beam_size": 4,
                "length_penalty": 0.6,
                "max_decode_length": 256,
                "metrics": ("bleu", "chrf"),
            },
            "optimizer": {
                "name": "adafactor",
                "learning_rate": 1e-2,
                "schedule": "rsqrt",
                "warmup_steps": 10_000,
                "clip_norm": 1.0,
            },
            "train": {
                "steps": 262_144,
                "batch_size": 128,
                "eval_batch_size": 128,
                "eval_every": 5000,
                "checkpoint_every": 1000,
                "log_every": 100,
            },
            "mesh": {"data": -1, "fsdp": 64, "tensor": 4},
            "precision": {"compute": "bfloat16"},
        }
    )
    if variant == "smoke":
        config.data.update(name="spelled_numbers", source="{words}", target="{digits}", vocab_size=400, workers=0)
        config.data.update(source_length=64, target_length=64)
        config.model.update(width=32, encoder_depth=2, decoder_depth=2, num_heads=2, kv_dim=16, mlp_dim=64)
        config.task.update(beam_size=2, max_decode_length=12)
        config.mesh.update(fsdp=1, tensor=1)
        config.optimizer.warmup_steps = 5
        config.train.update(steps=20, batch_size=16, eval_every=10, checkpoint_every=10, log_every=5)
        config.precision.compute = "float32"
    return config
