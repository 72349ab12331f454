"""Sentiment classification from scratch: SST-2 without its phrases, 6,920 sentences of film reviews.

    python -m research.data prepare sst2_sentences --manual_dir=$DATA/sst2
    python -m experiments.sentiment.main \\
      --config=configs/sentiment/sst2_sentences.py:cpu --workdir=runs/sst2_sentences

`full` and `cpu` are the same, since larger models overfit. Two encoder layers and one decoder layer of width 64 with a
dropout of 0.4, a word dropout of 0.2 and a vocabulary of 4k; the checkpoint with the best validation accuracy is
tested. Meant for a few minutes on 2 CPU cores. `smoke`: classifies number words as even or odd, seconds on a CPU.
Reference: the recursive tensor network of Socher et al., "Recursive Deep Models for Semantic Compositionality Over a
Sentiment Treebank", 2013, 85.4 %, trained on the labels of all phrases; their naive Bayes baseline has 81.8 %.
"""

from ml_collections import ConfigDict

from experiments.sentiment.experiment import Sentiment

EXPERIMENT = Sentiment
VARIANTS = ("full", "cpu", "smoke")

RESULT = {
    "metric": "test/accuracy",
    "reference": 0.854,
    "reference_source": "RNTN, Socher et al. 2013, trained on phrases too",
}


def get_config(variant: str = "full") -> ConfigDict:
    """The config of one of VARIANTS."""
    config = ConfigDict(
        {
            "seed": 0,
            "data": {
                "name": "sst2_sentences",
                "source": "{sentence}",
                "target": "{sentiment}",
                "vocab_size": 4000,
                "source_length": 128,
                "target_length": 12,
                "truncate": True,
            },
            "model": {
                "width": 64,
                "encoder_depth": 2,
                "decoder_depth": 1,
                "num_heads": 4,
                "kv_dim": 16,
                "mlp_dim": 128,
                "logits": "tied",
                "embedding_scale": True,
                "dropout": 0.4,
                "unroll": 2,
            },
            "task": {
                "label_smoothing": 0.1,
                "word_dropout": 0.2,
                "decoder": "greedy",
                "max_decode_length": 4,
                "metrics": ("accuracy",),
                "select_by": "accuracy",
            },
            "optimizer": {
                "name": "adamw",
                "learning_rate": 1e-3,
                "schedule": "cosine",
                "warmup_steps": 200,
                "b2": 0.98,
                "weight_decay": 0.1,
                "decay": ("kernel", "embedding"),
                "clip_norm": 1.0,
            },
            "train": {
                "steps": 2000,
                "batch_size": 16,
                "eval_batch_size": 64,
                "eval_every": 100,
                "checkpoint_every": 100,
                "log_every": 50,
                "score": "all",
                "select": "best",
                "ema": 0.99,
            },
        }
    )
    if variant == "smoke":
        config.data.update(name="spelled_numbers", source="{words}", target="{parity}", vocab_size=400)
        config.data.update(source_length=64, target_length=64)
        config.model.update(width=32, num_heads=2, mlp_dim=64, unroll=1)
        config.optimizer.warmup_steps = 5
        config.train.update(steps=20, eval_every=10, checkpoint_every=10, log_every=5)
    return config
