"""English to Chinese: Tatoeba, 25,626 pairs of short sentences.

    python -m research.data prepare tatoeba_zh_en --manual_dir=$DATA/tatoeba_zh_en
    python -m experiments.translation.main \\
      --config=configs/translation/tatoeba_en_zh.py:cpu --workdir=runs/tatoeba_en_zh

Model and training are those of multi30k_en_de.py, with a vocabulary of 8k in which every Chinese character is one token
(the data mix simplified and traditional characters). Metrics: BLEU over characters, and chrF.
`full`: 80 epochs, meant for one GPU. `cpu`: 8 epochs, 30 minutes on 2 CPU cores. `smoke`: number words to digits,
seconds on a CPU.
Reference: none is published for this split, in which no sentence of either language occurs in two parts.
"""

from ml_collections import ConfigDict

from experiments.translation.experiment import Translation

EXPERIMENT = Translation
VARIANTS = ("full", "cpu", "smoke")

RESULT = {
    "metric": "test/bleu_zh",
    "also": ("test/chrf",),
    "reference": None,
    "reference_source": "",
}


def get_config(variant: str = "full") -> ConfigDict:
    """The config of one of VARIANTS."""
    config = ConfigDict(
        {
            "seed": 0,
            "data": {
                "name": "tatoeba_zh_en",
                "source": "{en}",
                "target": "{zh}",
                "vocab_size": 8000,
                "source_length": 104,
                "target_length": 128,
            },
            "model": {
                "width": 128,
                "encoder_depth": 4,
                "decoder_depth": 4,
                "num_heads": 4,
                "kv_dim": 32,
                "mlp_dim": 256,
                "norm": "layer",
                "activation": "relu",
                "gated": False,
                "bias": True,
                "attention_scale": True,
                "encoder_positions": "sinusoidal",
                "decoder_positions": "sinusoidal",
                "embedding_scale": True,
                "logits": "tied",
                "dropout": 0.3,
                "unroll": 4,
            },
            "task": {
                "label_smoothing": 0.1,
                "beam_size": 5,
                "length_penalty": 1.0,
                "max_decode_length": 64,
                "metrics": ("bleu_zh", "chrf"),
            },
            "optimizer": {
                "name": "adamw",
                "learning_rate": 5e-3,
                "schedule": "rsqrt",
                "warmup_steps": 2000,
                "b2": 0.98,
                "clip_norm": 1.0,
            },
            "train": {
                "steps": 12_000,
                "batch_size": 16,
                "eval_batch_size": 64,
                "eval_every": 1000,
                "checkpoint_every": 1000,
                "log_every": 100,
                "ema": 0.999,
            },
        }
    )
    if variant == "cpu":
        # Rows of half the length, since attention is computed over whole packed rows.
        config.data.update(source_length=64, target_length=64, truncate=True)
        config.model.update(dropout=0.2, unroll=1)
        config.optimizer.update(schedule="cosine", learning_rate=2e-3, warmup_steps=400)
        config.train.update(steps=2500, eval_every=500, checkpoint_every=500, ema=0.998)
    if variant == "smoke":
        config.data.update(name="spelled_numbers", source="{words}", target="{digits}", vocab_size=400)
        config.data.update(source_length=64, target_length=64)
        config.model.update(width=32, encoder_depth=2, decoder_depth=2, num_heads=2, kv_dim=16, mlp_dim=64, unroll=1)
        config.task.update(beam_size=2, max_decode_length=12)
        config.optimizer.warmup_steps = 5
        config.train.update(steps=20, batch_size=16, eval_every=10, checkpoint_every=10, log_every=5)
    return config
