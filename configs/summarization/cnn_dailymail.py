"""Highlights of news stories: CNN/DailyMail, 287,113 stories, not anonymised.

    python -m research.data prepare cnn_dailymail --manual_dir=ARCHIVES
    python -m experiments.summarization.main \\
      --config=configs/summarization/cnn_dailymail.py --workdir=runs/cnn_dailymail

The shape of T5 v1.1 base (Shazeer, 2020), trained as Raffel et al., "Exploring the Limits of Transfer Learning with a
Unified Text-to-Text Transformer", 2020, fine-tune: 2^18 steps of 128 rows of 512 tokens, Adafactor without momentum,
dropout 0.1, a vocabulary of 32k, beam 4, length penalty 0.6, stories truncated to 512 tokens. Their T5-base,
pre-trained on C4, reaches ROUGE-1/2/L 42.05/20.34/39.40, where L is the summary-level ROUGE-Lsum. From scratch, as
here, that is out of reach, and the schedule is that of their pre-training: 0.01 for 10k steps (here a warm-up), then
inverse square root.
Hardware: 16 TPU chips, 8 rows on each. Mesh: data=-1, which takes, as planned, 13.8 of 16 GiB per chip on v5e:4x4.
`smoke`: number words to digits, seconds on a CPU.
"""

from ml_collections import ConfigDict

from experiments.summarization.experiment import Summarization

EXPERIMENT = Summarization
VARIANTS = ("full", "smoke")

RESULT = {
    "metric": "test/rouge1",
    "also": ("test/rouge2", "test/rougeLsum"),
    "floor": 40.34,
    "floor_source": "the first three sentences, See et al. 2017",
    "reference": 42.05,
    "reference_source": "T5-base, Raffel et al. 2020, table 14, pre-trained",
}


def get_config(variant: str = "full") -> ConfigDict:
    """The config of one of VARIANTS."""
    config = ConfigDict(
        {
            "seed": 0,
            "data": {
                "name": "cnn_dailymail",
                "source": "summarize: {article}",
                "target": "{highlights}",
                "vocab_size": 32_128,
                "source_length": 512,
                "target_length": 256,
                "truncate": True,
                "workers": 8,
            },
            "model": {
                "width": 768,
                "encoder_depth": 12,
                "decoder_depth": 12,
                "num_heads": 12,
                "kv_dim": 64,
                "mlp_dim": 2048,
                "dropout": 0.1,
            },
            "task": {
                "z_loss": 1e-4,
                "beam_size": 4,
                "length_penalty": 0.6,
                "max_decode_length": 256,
                "metrics": ("rouge",),
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
                "checkpoint_every": 5000,
                "log_every": 100,
                "select": "best",
            },
            "precision": {"compute": "bfloat16"},
        }
    )
    if variant == "smoke":
        config.data.update(name="spelled_numbers", source="{words}", target="{digits}", vocab_size=400, workers=0)
        config.data.update(source_length=64, target_length=64)
        config.model.update(width=32, encoder_depth=2, decoder_depth=2, num_heads=2, kv_dim=16, mlp_dim=64)
        config.task.update(beam_size=2, max_decode_length=12)
        config.optimizer.warmup_steps = 5
        config.train.update(steps=20, batch_size=16, eval_every=10, checkpoint_every=10, log_every=5)
        config.precision.compute = "float32"
    return config
