"""English to German: WMT 2014, 4.5 million sentence pairs.

    python -m research.data prepare wmt14_translate/de-en
    python -m experiments.translation.main \\
      --config=configs/translation/wmt14_en_de.py --workdir=runs/wmt14_en_de

Vaswani et al., "Attention Is All You Need", 2017. `full` is their base model: 100k steps of 25k source and 25k target
tokens, Adam (0.9, 0.98), learning rate width^-0.5 min(step^-0.5, step 4000^-1.5), dropout 0.1, label smoothing 0.1, a
joint BPE vocabulary of 37k, beam 4, length penalty 0.6; 27.3 BLEU on newstest2014. `big`: 300k steps, dropout 0.3; 28.4
BLEU. Theirs is BLEU of tokenised text with compound splitting, ours sacreBLEU of raw text, which is lower. Here rows of
256 tokens are packed with several sentences, dropout is also applied inside the MLPs, and an exponential moving average
of the weights replaces the average of the last 5 (big: 20) checkpoints. TFDS downloads about 1.6 GB; newstest2013 is
the validation split.
Hardware: 8 P100, 12 hours (big: 3.5 days) in the paper. Mesh: data=-1 over 8 chips, 12 rows on each, which takes, as
planned, 4.5 (big: 10.0) of 16 GiB per chip on v5e:2x4.
`smoke`: number words to digits, seconds on a CPU.
"""

from ml_collections import ConfigDict

from experiments.translation.experiment import Translation

EXPERIMENT = Translation
VARIANTS = ("full", "big", "smoke")

RESULT = {
    "metric": "test/bleu",
    "also": ("test/chrf",),
    "floor": 20.7,
    "floor_source": "phrase-based system of Buck et al. 2014, best of WMT 2014",
    "reference": 27.3,
    "reference_source": "base, Vaswani et al. 2017, table 2, of tokenised text",
    "big": {"reference": 28.4, "reference_source": "big, Vaswani et al. 2017, table 2, of tokenised text"},
}


def get_config(variant: str = "full") -> ConfigDict:
    """The config of one of VARIANTS."""
    config = ConfigDict(
        {
            "seed": 0,
            "data": {
                "name": "wmt14_translate/de-en",
                "source": "{en}",
                "target": "{de}",
                "vocab_size": 37_000,
                "vocab_type": "bpe",
                "source_length": 256,
                "target_length": 256,
                "truncate": True,
                "workers": 8,
            },
            "model": {
                "width": 512,
                "encoder_depth": 6,
                "decoder_depth": 6,
                "num_heads": 8,
                "kv_dim": 64,
                "mlp_dim": 2048,
                "norm": "layer",
                "norm_position": "post",
                "activation": "relu",
                "gated": False,
                "bias": True,
                "attention_scale": True,
                "encoder_positions": "sinusoidal",
                "decoder_positions": "sinusoidal",
                "embedding_scale": True,
                "logits": "tied",
                "dropout": 0.1,
            },
            "task": {
                "label_smoothing": 0.1,
                "beam_size": 4,
                "length_penalty": 0.6,
                "max_decode_length": 256,
                "metrics": ("bleu", "chrf"),
            },
            "optimizer": {
                "name": "adamw",
                "learning_rate": 7e-4,  # 512^-0.5 4000^-0.5
                "schedule": "rsqrt",
                "warmup_steps": 4000,
                "b2": 0.98,
                "eps": 1e-9,
            },
            "train": {
                "steps": 100_000,
                "batch_size": 96,
                "eval_batch_size": 128,
                "eval_every": 5000,
                "checkpoint_every": 5000,
                "log_every": 100,
                "ema": 0.9995,
            },
            "precision": {"compute": "bfloat16"},
        }
    )
    if variant == "big":
        config.model.update(width=1024, num_heads=16, mlp_dim=4096, dropout=0.3)
        config.optimizer.learning_rate = 4.9e-4  # 1024^-0.5 4000^-0.5
        config.train.update(steps=300_000, ema=0.9999)
    if variant == "smoke":
        config.data.update(name="spelled_numbers", source="{words}", target="{digits}", vocab_size=400, workers=0)
        config.data.update(source_length=64, target_length=64)
        config.model.update(width=32, encoder_depth=2, decoder_depth=2, num_heads=2, kv_dim=16, mlp_dim=64)
        config.task.update(beam_size=2, max_decode_length=12)
        config.optimizer.warmup_steps = 5
        config.train.update(steps=20, batch_size=16, eval_every=10, checkpoint_every=10, log_every=5)
        config.precision.compute = "float32"
    return config
