"""Isolated spoken digits: FSDD with its official test split, 300 recordings of speakers who are also in train.

    python -m research.data prepare fsdd/isolated --manual_dir=$DATA/fsdd
    python -m experiments.speech_recognition.main \\
      --config=configs/speech_recognition/fsdd_isolated.py:cpu --workdir=runs/fsdd_isolated

2,400 training recordings; recordings 5 to 9 of each speaker and digit are validation, the official 0 to 4 test. Each
digit is one token for the decoder; the encoder is trained jointly with CTC.
`full`: width 256, meant for one GPU. `cpu`: width 96, ten minutes on one or two CPU cores. `smoke`: dial tones (DTMF),
seconds on a CPU.
Reference: none known; `tessera baseline` measures support vector machines and others.
"""

from ml_collections import ConfigDict

from experiments.speech_recognition.experiment import SpeechRecognition

EXPERIMENT = SpeechRecognition
VARIANTS = ("full", "cpu", "smoke")

RESULT = {
    "metric": "test/accuracy",
    "reference": None,
    "reference_source": "",
}


def get_config(variant: str = "full") -> ConfigDict:
    """The config of one of VARIANTS."""
    config = ConfigDict(
        {
            "seed": 0,
            "data": {
                "name": "fsdd/isolated",
                "sample_rate": 8000,
                "mels": 40,
                "range_db": 60.0,  # weaker parts are recording noise
                "normalise": "level",  # per-band normalisation would remove the spectrum of such short sounds
                "max_seconds": 2.4,
                "train_seconds": 1.0,  # 14 of 2,400 are longer and left out
                "long_sounds": "split",
                "target_length": 4,
                "vocab_size": 64,
                "vocab_type": "bpe",
                "speed": 0.15,
                "noise": 0.7,
                "noise_db": (5.0, 40.0),
                "frequency_masks": 2,
                "frequency_width": 6,
                "time_masks": 2,
                "time_width": 8,
                "cache": True,
            },
            "model": {
                "strides": (2, 2),
                "width": 256,
                "encoder_depth": 6,
                "decoder_depth": 1,
                "num_heads": 4,
                "kv_dim": 64,
                "mlp_dim": 768,
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
                "ctc_weight": 0.3,
                "decoder": "greedy",
                "max_decode_length": 4,
                "metrics": ("accuracy", "wer", "wer_by_speaker"),
                "select_by": "accuracy",
            },
            "optimizer": {
                "name": "adamw",
                "learning_rate": 1e-3,
                "schedule": "cosine",
                "warmup_steps": 300,
                "b2": 0.98,
                "weight_decay": 0.05,
                "clip_norm": 1.0,
            },
            "train": {
                "steps": 6000,
                "batch_size": 64,
                "eval_batch_size": 100,
                "eval_every": 500,
                "checkpoint_every": 500,
                "log_every": 50,
                "score": "all",
                "ema": 0.999,
            },
        }
    )
    if variant == "cpu":
        config.model.update(width=96, encoder_depth=4, kv_dim=24, mlp_dim=288, dropout=0.15, unroll=4)
        config.optimizer.update(learning_rate=2e-3, warmup_steps=150)
        config.train.update(steps=3000, batch_size=48, eval_every=300, checkpoint_every=300, ema=0.995)
    if variant == "smoke":
        config.data.update(name="dial_tones", max_seconds=1.2, train_seconds=0.0, target_length=8, cache=False)
        config.model.update(width=32, encoder_depth=2, num_heads=2, kv_dim=16, mlp_dim=64, unroll=2)
        config.task.max_decode_length = 6
        config.optimizer.warmup_steps = 5
        config.train.update(
            steps=20, batch_size=16, eval_batch_size=40, eval_every=10, checkpoint_every=10, log_every=5
        )
    return config
