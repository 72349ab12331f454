"""Sentiment classification of film reviews, SST-2 as in GLUE: 67,349 sentences and phrases.

    python -m research.data prepare glue/sst2
    python -m experiments.sentiment.main \\
      --config=configs/sentiment/glue_sst2.py --workdir=runs/glue_sst2

The shape of T5 v1.1 base (Shazeer, 2020), trained as Raffel et al., "Exploring the Limits of Transfer Learning with a
Unified Text-to-Text Transformer", 2020, fine-tune: batches of 128 rows of 512 tokens, Adafactor without momentum,
dropout 0.1, a vocabulary of 32k, checkpoints chosen on the validation split. Their T5-base, pre-trained on C4, reaches
95.2 % on the test server. From scratch, as here, that is out of reach; the schedule is that of their pre-training
(inverse square root), and there are 20 epochs instead of 2^18 steps for all of GLUE. The official validation split, 872
sentences, is the test split, because GLUE's test split has no labels; validation is held out of the training split by
sentence, together with all its phrases.
Hardware: 16 TPU chips, 8 rows on each. Mesh: data=-1, which takes 9.1 of 16 GiB per chip on v5e:4x4, as planned for
squad.py, which has the same shapes; 8 chips would be full (15.7 GiB). `smoke`: classifies number words as even or odd,
seconds on a CPU.
"""

from ml_collections import ConfigDict

from experiments.sentiment.experiment import Sentiment

EXPERIMENT = Sentiment
VARIANTS = ("full", "smoke")

RESULT = {
    "metric": "test/accuracy",
    "floor": 0.800,
    "floor_source": "average of word vectors (CBoW), Wang et al. 2019 (GLUE), on the test server",
    "reference": 0.952,
    "reference_source": "T5-base, Raffel et al. 2020, table 14, pre-trained, on the test server",
}


def get_config(variant: str = "full") -> ConfigDict:
    """The config of one of VARIANTS."""
    config = ConfigDict(
        {
            "seed": 0,
            "data": {
                "name": "glue/sst2",
                "group": "sentence:phrases",
                "source": "sst2 sentence: {sentence}",
                "target": "{label}",
                "vocab_size": 32_128,
                "source_length": 512,
                "target_length": 64,
                "workers": 8,
            },
            "model": {
                "width": 768,
                "encoder_depth": 12,
                "decoder_depth": 12,
                "num_heads": 12,
                "kv_dim": 64,
                "mlp_dim": 2048,
                "dropout": 0.1,
            },
            "task": {
                "z_loss": 1e-4,
                "decoder": "greedy",
                "max_decode_length": 8,
                "metrics": ("accuracy",),
                "select_by": "accuracy",
            },
            "optimizer": {
                "name": "adafactor",
                "learning_rate": 1e-2,
                "schedule": "rsqrt",
                "warmup_steps": 200,
                "clip_norm": 1.0,
            },
            "train": {
                "steps": 320,
                "batch_size": 128,
                "eval_batch_size": 128,
                "eval_every": 20,
                "checkpoint_every": 20,
                "log_every": 10,
                "score": "all",
                "select": "best",
            },
            "precision": {"compute": "bfloat16"},
        }
    )
    if variant == "smoke":
        config.data.update(name="spelled_numbers", group="", source="{words}", target="{parity}", vocab_size=400)
        config.data.update(workers=0, source_length=64, target_length=64)
        config.model.update(width=32, encoder_depth=2, decoder_depth=2, num_heads=2, kv_dim=16, mlp_dim=64)
        config.optimizer.warmup_steps = 5
        config.train.update(steps=20, batch_size=16, eval_every=10, checkpoint_every=10, log_every=5)
        config.precision.compute = "float32"
    return config
