"""Strings of 1 to 8 spoken digits: recordings of FSDD, concatenated with pauses and noise.

    python -m research.data prepare fsdd/strings --manual_dir=$DATA/fsdd
    python -m experiments.speech_recognition.main \\
      --config=configs/speech_recognition/fsdd_strings.py:cpu --workdir=runs/fsdd_strings

A training example is a concatenation of 1 to 8 training recordings of one speaker, a function of (data.join_seed,
index); the 300 test strings, of official test recordings, are a fixed list. Every digit is one token. Joint CTC and
attention training as in Watanabe et al., "Hybrid CTC/Attention Architecture for End-to-End Speech Recognition", 2017.
Decoding uses CTC alone, which is learned much faster than the decoder: after 500 steps it recognises 65 % of the
digits, the decoder 16 %.
`full`: width 256, 12k steps of 64, meant for one GPU. `cpu`: width 96, 3.6k steps of 24, meant for less than 40 minutes
on 2 CPU cores. `smoke`: dial tones (DTMF), seconds on a CPU.
Reference: none is published, since this data set is specific to this repository.
"""

from ml_collections import ConfigDict

from experiments.speech_recognition.experiment import SpeechRecognition

EXPERIMENT = SpeechRecognition
VARIANTS = ("full", "cpu", "smoke")

RESULT = {
    "metric": "test/wer",
    "also": ("test/cer",),
    "reference": None,
    "reference_source": "",
}


def get_config(variant: str = "full") -> ConfigDict:
    """The config of one of VARIANTS."""
    config = ConfigDict(
        {
            "seed": 0,
            "data": {
                "name": "fsdd/strings",
                "sample_rate": 8000,
                "mels": 40,
                "range_db": 60.0,  # weaker parts are recording noise
                "normalise": "level",
                "max_seconds": 6.4,
                "train_seconds": 4.8,
                "target_length": 10,
                "vocab_size": 64,
                "vocab_type": "bpe",
                "join": 8,
                "pause_ms": (0.0, 200.0),
                "speed": 0.1,
                "noise": 0.8,
                "noise_db": (5.0, 40.0),
                "frequency_masks": 2,
                "frequency_width": 6,
                "time_masks": 2,
                "time_width": 15,
                "cache": True,
            },
            "model": {
                "strides": (2, 2),
                "width": 256,
                "encoder_depth": 6,
                "decoder_depth": 2,
                "num_heads": 4,
                "kv_dim": 64,
                "mlp_dim": 1024,
                "norm": "layer",
                "activation": "gelu_exact",
                "gated": False,
                "bias": True,
                "attention_scale": True,
                "encoder_positions": "sinusoidal",
                "decoder_positions": "sinusoidal",
                "embedding_scale": True,
                "logits": "tied",
                "dropout": 0.1,
                "unroll": 6,
            },
            "task": {
                "label_smoothing": 0.1,
                "ctc_weight": 0.5,
                "decoder": "ctc",
                "max_decode_length": 10,
                "metrics": ("wer", "wer_by_speaker"),
                "select_by": "wer",
            },
            "optimizer": {
                "name": "adamw",
                "learning_rate": 1e-3,
                "schedule": "cosine",
                "warmup_steps": 1000,
                "b2": 0.98,
                "weight_decay": 0.05,
                "clip_norm": 1.0,
            },
            "train": {
                "steps": 12_000,
                "batch_size": 64,
                "eval_batch_size": 64,
                "eval_every": 1000,
                "checkpoint_every": 1000,
                "log_every": 50,
                "score": "all",
                "ema": 0.999,
            },
        }
    )
    if variant == "cpu":
        config.model.update(width=96, encoder_depth=4, decoder_depth=1, kv_dim=24, mlp_dim=288, dropout=0.0, unroll=4)
        config.optimizer.update(learning_rate=2e-3, warmup_steps=200)
        config.train.update(steps=3600, batch_size=24, eval_every=600, checkpoint_every=600, ema=0.995)
    if variant == "smoke":
        config.data.update(name="dial_tones", max_seconds=1.2, train_seconds=0.0, target_length=8, join=1, cache=False)
        config.model.update(width=32, encoder_depth=2, decoder_depth=1, num_heads=2, kv_dim=16, mlp_dim=64, unroll=2)
        config.task.max_decode_length = 6
        config.optimizer.warmup_steps = 5
        config.train.update(steps=20, batch_size=16, eval_every=10, checkpoint_every=10, log_every=5)
    return config
