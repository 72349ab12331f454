"""The workload of both sides of the suite `text`."""

import dataclasses
from typing import Any

import numpy as np

from research.models.seq2seq import SIZES

BEAMS = {"greedy": 1, "beam": 4}
WORK = ("train", *BEAMS, "greedy bfloat16")


def beams(work: str) -> int:
    """Hypotheses for each source; 0 of work that is no decoding."""
    return BEAMS.get(work.split()[0], 0)


def dtype(work: str) -> str:
    """Of weights and computation."""
    return "bfloat16" if work.endswith("bfloat16") else "float32"


@dataclasses.dataclass(frozen=True)
class Shapes:
    """Sizes of a T5 v1.1, of its inputs and outputs, and the settings of AdamW."""

    model: dict[str, Any] = dataclasses.field(default_factory=lambda: SIZES["t5_small"])
    vocab_size: int = 32128
    batch_size: int = 8
    source_length: int = 128
    target_length: int = 64  # also the number of decoded tokens
    dropout: float = 0.1
    learning_rate: float = 1e-3
    weight_decay: float = 0.01

    @property
    def name(self) -> str:
        """Such as `t5_512x8:8x128+64`: width and depth, then rows of source and target tokens."""
        model = f"{self.model['width']}x{self.model['encoder_depth']}"
        return f"t5_{model}:{self.batch_size}x{self.source_length}+{self.target_length}"

    def tokens(self) -> tuple[np.ndarray, np.ndarray]:
        """Random sources and targets, int32 [batch, length], without padding and special tokens."""
        rng = np.random.default_rng(0)
        draw = lambda length: rng.integers(4, self.vocab_size, (self.batch_size, length), np.int32)
        return draw(self.source_length), draw(self.target_length)

    def config(self, work: str) -> dict[str, Any]:
        """The fields that differ from the defaults of the trainer's config."""
        return {
            "precision": {"params": dtype(work), "compute": dtype(work)},
            "optimizer": {
                "name": "adamw", "schedule": "constant", "learning_rate": self.learning_rate,
                "weight_decay": self.weight_decay, "decay": ("",),  # everything, as PyTorch does
            },
            "train": {"batch_size": self.batch_size, "eval_batch_size": self.batch_size},
        }  # fmt: skip

    def count(self, work: str) -> int:
        """The number of tokens per call: source and target tokens in training, else decoded tokens."""
        return self.batch_size * (self.target_length + (self.source_length if work == "train" else 0))
