"""Generative question answering about single sentences: QAMR, 16,989 questions about 456 sentences.

    python -m research.data prepare qamr --manual_dir=$DATA/qamr
    python -m experiments.question_answering.main \\
      --config=configs/question_answering/qamr.py:cpu --workdir=runs/qamr

`full`: three encoder and two decoder layers of width 128, since larger models overfit, a dropout of 0.3 and, since the
sentences are so few, a lower-cased vocabulary of only 2k; 10 epochs. The model has a copy mechanism
(research/models/copying.py), since test sentences have other words. `cpu`: the same model with a dropout of 0.2 for
2,000 steps; learning rate and dropout were chosen on validation (configs/sweeps/qamr.toml). `smoke`: number words to
digits, seconds on a CPU. The official training set is not used: train and validation are the official dev set, test is
the official test set; they share no article (see the builder).
Reference: none is published for so little training data.
"""

from ml_collections import ConfigDict

from experiments.question_answering.experiment import QuestionAnswering

EXPERIMENT = QuestionAnswering
VARIANTS = ("full", "cpu", "smoke")

RESULT = {
    "metric": "test/f1",
    "also": ("test/exact_match", "test/bleu1", "test/rouge_l"),
    "reference": None,
    "reference_source": "",
}


def get_config(variant: str = "full") -> ConfigDict:
    """The config of one of VARIANTS."""
    config = ConfigDict(
        {
            "seed": 0,
            "data": {
                "name": "qamr",
                "source": "question: {question} context: {context}",
                "target": "{answer}",
                "vocab_size": 2000,
                "source_length": 320,
                "target_length": 40,
                "fold_case": True,
                "truncate": True,
            },
            "model": {
                "width": 128,
                "encoder_depth": 3,
                "decoder_depth": 2,
                "num_heads": 4,
                "kv_dim": 32,
                "mlp_dim": 384,
                "logits": "tied",
                "encoder_positions": "sinusoidal",
                "decoder_positions": "sinusoidal",
                "embedding_scale": True,
                "copy_mechanism": True,
                "dropout": 0.3,
                "unroll": 3,
            },
            "task": {
                "word_dropout": 0.1,
                "beam_size": 4,
                "length_penalty": 0.6,
                "max_decode_length": 40,
                "metrics": ("squad", "tweetqa"),
            },
            "optimizer": {
                "name": "adamw",
                "learning_rate": 2e-3,
                "schedule": "cosine",
                "warmup_steps": 300,
                "b2": 0.98,
                "weight_decay": 0.05,
                "clip_norm": 1.0,
            },
            "train": {
                "steps": 2200,
                "batch_size": 16,
                "eval_batch_size": 64,
                "eval_every": 200,
                "checkpoint_every": 200,
                "log_every": 50,
                "select": "best",
                "ema": 0.998,
            },
        }
    )
    if variant == "cpu":
        config.model.update(dropout=0.2, unroll=1)
        config.train.update(steps=2000, batch_size=8)
    if variant == "smoke":
        config.data.update(name="spelled_numbers", vocab_size=400, source_length=64, target_length=64)
        config.data.update(source="question: {parity} context: {words}", target="{digits}")
        config.model.update(width=32, encoder_depth=2, decoder_depth=1, num_heads=2, kv_dim=16, mlp_dim=64, unroll=1)
        config.task.update(beam_size=2, max_decode_length=12)
        config.optimizer.warmup_steps = 5
        config.train.update(steps=20, batch_size=16, eval_every=10, checkpoint_every=10, log_every=5)
    return config
