"""What both sides of the suite `text` are given to do."""

import dataclasses
from typing import Any

import numpy as np

from research.models.seq2seq import SIZES

BEAMS = {"greedy": 1, "beam": 4}
WORK = ("train", *BEAMS)


@dataclasses.dataclass(frozen=True)
class Shapes:
    """Sizes of a T5 v1.1 and of what it reads and writes, and the settings of AdamW."""

    model: dict[str, Any] = dataclasses.field(default_factory=lambda: SIZES["t5_small"])
    vocab_size: int = 32128
    batch_size: int = 8
    source_length: int = 128
    target_length: int = 64  # also what is decoded for each source
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

    def config(self) -> dict[str, Any]:
        """What differs from the defaults of the trainer's config."""
        return {
            "optimizer": {
                "name": "adamw", "schedule": "constant", "learning_rate": self.learning_rate,
                "weight_decay": self.weight_decay, "decay": ("",),  # everything, as PyTorch does
            },
            "train": {"batch_size": self.batch_size, "eval_batch_size": self.batch_size},
        }  # fmt: skip

    def count(self, work: str) -> int:
        """The tokens of one piece of work: those of source and target in training, else those that are decoded."""
        return self.batch_size * (self.target_length + (self.source_length if work == "train" else 0))
