"""Question answering over short synthetic stories: bAbI, 20 tasks in English, 1,000 questions each, one joint model.

    python -m research.data prepare babi --manual_dir=$DATA/babi
    python -m experiments.question_answering.main \\
      --config=configs/question_answering/babi.py:cpu --workdir=runs/babi

Each encoder position is a sentence: the sum of its word embeddings weighted by word position, as in the memory networks
below and in Dehghani et al., "Universal Transformers", 2019; there are nine times as many tokens. `full`: whole stories
and 100k steps, for one GPU. `cpu`: the last 64 sentences of a story and 8k steps, 80 epochs, an hour on one CPU core.
Both: six encoder layers with the same parameters, as in Universal Transformers, and one decoder layer of width 128,
relative positions in 128 buckets, which tell the order of neighbours up to 32 sentences away, the question after the
story; chosen on validation (configs/sweeps/babi.toml).
`smoke`: number words to digits, seconds on a CPU. Weston et al., "Towards AI-Complete Question Answering: A Set of
Prerequisite Toy Tasks", 2015. Reference: the memory networks of Sukhbaatar et al., "End-To-End Memory Networks", 2015,
trained jointly on all tasks; they store each sentence in a memory slot and begin training with linear attention.
Validation is every tenth story of the training set.
"""

from ml_collections import ConfigDict

from experiments.question_answering.experiment import QuestionAnswering

EXPERIMENT = QuestionAnswering
VARIANTS = ("full", "cpu", "smoke")

RESULT = {
    "metric": "test/accuracy_mean",
    "reference": 0.876,
    "reference_source": "MemN2N, joint, Sukhbaatar et al. 2015",
    "smoke": {"metric": "test/accuracy"},  # its data has one task
}


def get_config(variant: str = "full") -> ConfigDict:
    """The config of one of VARIANTS."""
    config = ConfigDict(
        {
            "seed": 0,
            "data": {
                "name": "babi",
                "source": "{context} {question}",
                "target": "{answer}",
                "vocab_size": 512,
                "source_length": 320,
                "target_length": 64,
                "sentence_length": 16,
                "truncate": True,
                "truncate_source": "start",
            },
            "model": {
                "width": 128,
                "encoder_depth": 6,
                "share_layers": True,
                "relative_buckets": 128,
                "decoder_depth": 1,
                "num_heads": 4,
                "kv_dim": 32,
                "mlp_dim": 256,
                "logits": "tied",
                "embedding_scale": True,
                "dropout": 0.1,
                "unroll": 6,
            },
            "task": {
                "decoder": "greedy",
                "max_decode_length": 8,
                "metrics": ("accuracy_by_task",),
                "select_by": "accuracy_mean",
            },
            "optimizer": {
                "name": "adamw",
                "learning_rate": 1e-3,
                "schedule": "cosine",
                "warmup_steps": 1000,
                "b2": 0.98,
                "weight_decay": 0.01,
                "clip_norm": 1.0,
            },
            "train": {
                "steps": 100_000,
                "batch_size": 16,
                "eval_batch_size": 64,
                "eval_every": 1000,
                "checkpoint_every": 1000,
                "log_every": 100,
                "score": "all",
                "select": "best",
                "ema": 0.999,
            },
        }
    )
    if variant == "cpu":
        config.data.update(source_length=64, target_length=16)
        config.optimizer.warmup_steps = 500
        config.train.update(steps=8000, batch_size=32, eval_every=1500, checkpoint_every=500)
    if variant == "smoke":
        config.data.update(name="spelled_numbers", vocab_size=400, source_length=64, target_length=64)
        config.data.update(source="context: {words} question: {parity}", target="{digits}")
        config.model.update(width=32, encoder_depth=2, num_heads=2, kv_dim=16, mlp_dim=64, unroll=1)
        config.task.update(max_decode_length=12, metrics=("accuracy",), select_by="accuracy")
        config.optimizer.warmup_steps = 5
        config.train.update(steps=20, batch_size=16, eval_every=10, checkpoint_every=10, log_every=5)
    return config
