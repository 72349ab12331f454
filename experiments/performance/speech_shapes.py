"""The workload of both sides of the suite `speech`."""

import dataclasses
from typing import Any

import numpy as np

from research.models.speech import SIZES

RATE = 16_000  # Hz
INPUT_S = 30  # s: the fixed input length of Whisper in transformers


@dataclasses.dataclass(frozen=True)
class Shapes:
    """Sizes of a Whisper model, its inputs and outputs, and the settings of AdamW."""

    name: str = "whisper_tiny"
    model: dict[str, Any] = dataclasses.field(default_factory=lambda: SIZES["tiny"])
    vocab_size: int = 51865
    mels: int = 80
    batch_size: int = 2
    target_length: int = 64  # also of each transcript
    seconds: tuple[float, ...] = (30.0, 7.5)  # sounds to transcribe; the mean of LibriSpeech's test-clean is 7.4
    learning_rate: float = 1e-4
    weight_decay: float = 0.01

    @property
    def work(self) -> tuple[str, ...]:
        """`train`, on sounds of INPUT_S, and `transcribe 30 s` and so on."""
        return ("train", *(f"transcribe {seconds:g} s" for seconds in self.seconds))

    def input_s(self, work: str) -> float:
        """The length of a sound in s."""
        return INPUT_S if work == "train" else float(work.split()[1])

    def sounds(self, work: str) -> list[np.ndarray]:
        """White noise at RATE, float32 [batch, samples]."""
        rng, count = np.random.default_rng(0), round(self.input_s(work) * RATE)
        return [0.1 * rng.standard_normal(count, np.float32) for _ in range(self.batch_size)]

    def targets(self) -> np.ndarray:
        """Random tokens, int32 [batch, target length], without special ones."""
        rng = np.random.default_rng(1)
        return rng.integers(4, min(50_000, self.vocab_size), (self.batch_size, self.target_length), np.int32)

    def config(self) -> dict[str, Any]:
        """The fields that differ from the defaults of the trainer's config."""
        return {
            "optimizer": {
                "name": "adamw", "schedule": "constant", "learning_rate": self.learning_rate,
                "weight_decay": self.weight_decay, "decay": ("",),  # everything, as PyTorch does
            },
            "train": {"batch_size": self.batch_size, "eval_batch_size": self.batch_size},
        }  # fmt: skip
