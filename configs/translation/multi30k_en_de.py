"""English to German: Multi30k, image captions, 29,000 sentence pairs.

    python -m research.data prepare multi30k --manual_dir=$DATA/multi30k
    python -m experiments.translation.main \\
      --config=configs/translation/multi30k_en_de.py:cpu --workdir=runs/multi30k_en_de

`full`: the transformer "tiny" of Wu et al., "Good for Misconceived Reasons: An Empirical Revisiting on the Need for
Visual Context in Multimodal Machine Translation", 2021: 4 layers of width 128, dropout 0.3, label smoothing 0.1, joint
vocabulary of 10k, batches of 4,096 tokens, learning rate 5e-3 after 2k steps of warm-up, beam 5; found better there
than larger ones. Here layers are pre-norm, and an exponential moving average of the weights replaces the average of ten
checkpoints. Meant for one GPU.
`cpu`: the same model for 10 epochs of batches of 1,024 tokens, with less dropout and a vocabulary of 6k; 30 minutes on
2 CPU cores. `smoke`: number words to digits, seconds on a CPU.
Reference: their 41.02 is tokenised, lower-cased BLEU, which is not comparable with sacreBLEU of raw text, as here.
"""

from ml_collections import ConfigDict

from experiments.translation.experiment import Translation

EXPERIMENT = Translation
VARIANTS = ("full", "cpu", "smoke")

RESULT = {
    "metric": "test/bleu",
    "also": ("test/chrf",),
    "reference": 41.02,
    "reference_source": "transformer-tiny, Wu et al. 2021, BLEU of lower-cased tokens",
}


def get_config(variant: str = "full") -> ConfigDict:
    """The config of one of VARIANTS."""
    config = ConfigDict(
        {
            "seed": 0,
            "data": {
                "name": "multi30k",
                "source": "{en}",
                "target": "{de}",
                "vocab_size": 10_000,
                "source_length": 128,
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
                "max_decode_length": 80,
                "metrics": ("bleu", "chrf"),
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
                "batch_size": 32,
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
        config.data.update(vocab_size=6000, source_length=64, target_length=64, truncate=True)
        config.model.update(dropout=0.1, unroll=1)
        config.optimizer.update(schedule="cosine", learning_rate=2e-3, warmup_steps=400)
        config.train.update(steps=5000, batch_size=16, eval_every=500, checkpoint_every=500, ema=0.998)
    if variant == "smoke":
        config.data.update(name="spelled_numbers", source="{words}", target="{digits}", vocab_size=400)
        config.data.update(source_length=64, target_length=64)
        config.model.update(width=32, encoder_depth=2, decoder_depth=2, num_heads=2, kv_dim=16, mlp_dim=64, unroll=1)
        config.task.update(beam_size=2, max_decode_length=12)
        config.optimizer.warmup_steps = 5
        config.train.update(steps=20, batch_size=16, eval_every=10, checkpoint_every=10, log_every=5)
    return config
