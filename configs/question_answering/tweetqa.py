"""Generative question answering about tweets: TweetQA, 9,568 questions.

    python -m research.data prepare tweetqa --manual_dir=$DATA/tweetqa
    python -m experiments.question_answering.main \\
      --config=configs/question_answering/tweetqa.py:cpu --workdir=runs/tweetqa

`full`: three encoder and two decoder layers of width 128, since larger models overfit, a dropout of 0.3; 15 epochs. A
model trained from scratch cannot generate rare words, so it has a copy mechanism (research/models/copying.py); answers
are lower-cased and tweets are not, so the vocabulary folds case. `cpu`: the same model with a dropout of 0.2 for 4
epochs, 15 minutes on one CPU core. `smoke`: number words to digits, seconds on a CPU. The official test set has no
answers, so test is the official dev set, with two reference answers each; validation is held out of the training
tweets.
Reference: the sequence-to-sequence baseline of Xiong et al., "TWEETQA: A Social Media Focused Question Answering
Dataset", 2019, BLEU-1 53.4 and ROUGE-L 39.5 on dev; it also has a copy mechanism, and GloVe embeddings.
"""

from ml_collections import ConfigDict

from experiments.question_answering.experiment import QuestionAnswering

EXPERIMENT = QuestionAnswering
VARIANTS = ("full", "cpu", "smoke")

RESULT = {
    "metric": "test/bleu1",
    "also": ("test/rouge_l", "test/exact_match", "test/f1"),
    "reference": 0.534,
    "reference_source": "generative baseline on dev, Xiong et al. 2019",
}


def get_config(variant: str = "full") -> ConfigDict:
    """The config of one of VARIANTS."""
    config = ConfigDict(
        {
            "seed": 0,
            "data": {
                "name": "tweetqa",
                "source": "question: {question} context: {context}",
                "target": "{answer}",
                "vocab_size": 8000,
                "source_length": 256,
                "target_length": 32,
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
                "max_decode_length": 24,
                "metrics": ("tweetqa", "squad"),
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
                "steps": 2400,
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
        config.train.update(steps=1200, batch_size=8)
    if variant == "smoke":
        config.data.update(name="spelled_numbers", vocab_size=400, source_length=64, target_length=64)
        config.data.update(source="question: {parity} context: {words}", target="{digits}")
        config.model.update(width=32, encoder_depth=2, decoder_depth=1, num_heads=2, kv_dim=16, mlp_dim=64, unroll=1)
        config.task.update(beam_size=2, max_decode_length=12)
        config.optimizer.warmup_steps = 5
        config.train.update(steps=20, batch_size=16, eval_every=10, checkpoint_every=10, log_every=5)
    return config
