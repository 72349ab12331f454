"""English speech recognition: LibriSpeech, 960 hours, a model with the sizes of Whisper small, from scratch.

    python -m research.data prepare librispeech_flac/all960 --manual_dir=/path/to/librispeech
    python -m experiments.speech_recognition.main \\
      --config=configs/speech_recognition/librispeech_whisper_small.py --workdir=runs/librispeech_whisper_small

Radford et al., "Robust Speech Recognition via Large-Scale Weak Supervision", 2022: 80 log-mel bands, windows of 25 ms
every 10 ms, convolutions of strides 1 and 2, 12 layers of width 768. Here padding is masked; training rows are 17 s
long, and the few longer recordings are left out; a vocabulary of 1,000 is trained on the transcripts; the encoder is
trained jointly with CTC; dropout, speed perturbation and SpecAugment (Park et al., 2019) compensate for having less
data than Whisper's 680,000 hours.
Hardware: 32 TPU chips, 16 rows on each, in bfloat16 with full remat. Mesh: data=-1, which takes, as planned, 6.6 of 16
GiB per chip on v5e:4x8. Not trained here. `smoke`: dial tones (DTMF), seconds on a CPU.
Reference: Whisper small, zero-shot, trained on far more data but not on LibriSpeech.
"""

from ml_collections import ConfigDict

from experiments.speech_recognition.experiment import SpeechRecognition

EXPERIMENT = SpeechRecognition
VARIANTS = ("full", "smoke")

RESULT = {
    "metric": "test/wer",
    "also": ("test/cer",),
    "floor": 100.0,
    "floor_source": "nothing is written",
    "reference": 3.4,
    "reference_source": "Whisper small, zero-shot, test-clean, Radford et al. 2022, another normalisation",
}


def get_config(variant: str = "full") -> ConfigDict:
    """The config of one of VARIANTS."""
    config = ConfigDict(
        {
            "seed": 0,
            "data": {
                "name": "librispeech_flac/all960",
                "sample_rate": 16_000,
                "mels": 80,
                "max_seconds": 36.0,
                "train_seconds": 17.0,
                "target_length": 448,
                "vocab_size": 1000,
                "long_sounds": "split",
                "speed": 0.1,
                "frequency_masks": 2,
                "frequency_width": 27,
                "time_masks": 2,
                "time_width": 100,
                "eval_buckets": 4,
                "workers": 8,
            },
            "model": {
                "strides": (1, 2),
                "width": 768,
                "encoder_depth": 12,
                "decoder_depth": 12,
                "num_heads": 12,
                "kv_dim": 64,
                "mlp_dim": 3072,
                "norm": "layer",
                "norm_epsilon": 1e-5,
                "activation": "gelu_exact",
                "gated": False,
                "bias": True,
                "key_bias": False,
                "attention_scale": True,
                "encoder_positions": "sinusoidal",
                "decoder_positions": "learned",
                "logits": "tied",
                "dropout": 0.1,
                "remat": "full",
            },
            "task": {
                "label_smoothing": 0.1,
                "ctc_weight": 0.3,
                "beam_size": 5,
                "length_penalty": 1.0,
                "max_decode_length": 448,
                "metrics": ("wer",),
            },
            "optimizer": {
                "name": "adamw",
                "learning_rate": 1e-3,
                "schedule": "cosine",
                "warmup_steps": 10_000,
                "b2": 0.98,
                "weight_decay": 0.01,
                "clip_norm": 1.0,
            },
            "train": {
                "steps": 100_000,
                "batch_size": 512,
                "eval_batch_size": 128,
                "eval_every": 5000,
                "checkpoint_every": 5000,
                "log_every": 100,
                "ema": 0.9999,
            },
            "precision": {"compute": "bfloat16"},
        }
    )
    if variant == "smoke":
        config.data.update(name="dial_tones", max_seconds=1.2, train_seconds=0.0, target_length=8)
        config.data.update(vocab_size=64, vocab_type="bpe", workers=0)
        config.model.update(width=32, encoder_depth=2, decoder_depth=2, num_heads=2, kv_dim=16, mlp_dim=64)
        config.task.update(beam_size=2, max_decode_length=6)
        config.optimizer.warmup_steps = 5
        config.train.update(
            steps=20, batch_size=16, eval_batch_size=40, eval_every=10, checkpoint_every=10, log_every=5
        )
        config.precision.compute = "float32"
    return config
