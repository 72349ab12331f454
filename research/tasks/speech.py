"""Speech to text: `seq2seq.Task` over spectrograms, with CTC on the encoder beside it or in place of it."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import optax

from research.models import decoding
from research.tasks import seq2seq
from research.tasks.seq2seq import Batch, Sums


@dataclasses.dataclass(frozen=True)
class Task(seq2seq.Task):
    """As seq2seq.Task, but a batch's `source` is float32 [batch, frames, mels], one sound a row.

    `source_segments` and `source_positions` count the places of the encoder: `shortening` frames are one place. With
    the decoder "ctc", `max_decode_length` tokens at most are kept, without EOS.
    """

    DECODERS: ClassVar = (*seq2seq.DECODERS, "ctc")

    mels: int = 80
    shortening: int = 2
    ctc_weight: float = 0.0  # the share of CTC in the loss (Kim et al., 2017); 0: the encoder has no head

    def __post_init__(self) -> None:
        """Raises ValueError for a setting that no batch could fix."""
        if not 0 <= self.ctc_weight <= 1:
            raise ValueError(f"config.task.ctc_weight={self.ctc_weight} must be at least 0 and at most 1")
        if self.decoder == "ctc" and not self.ctc_weight:
            raise ValueError("config.task.decoder='ctc' needs a model that was trained with config.task.ctc_weight > 0")
        super().__post_init__()

    def loss(self, variables, batch: Batch, totals, rng: jax.Array):
        """`(loss, ({}, sums))`: (1 - ctc_weight) times the decoder's loss and ctc_weight times CTC's, both a token."""
        if not self.ctc_weight:
            return super().loss(variables, batch, totals, rng)
        logits, ctc_logits = self._logits(variables, batch, train=True, rngs={"dropout": rng}, method="both_logits")
        loss, sums = self._cross_entropy(logits, batch, totals)
        ctc = _ctc(ctc_logits, batch, self.eos)
        loss = (1 - self.ctc_weight) * loss + self.ctc_weight * ctc.sum() / totals["tokens"]
        return loss, ({}, sums | {"ctc_loss": (ctc.sum(), sums["loss"][1])})

    def evaluate(self, variables, batch: Batch) -> Sums:
        """As in seq2seq.Task, and the CTC loss, each with the number of target tokens, EOS included."""
        if not self.ctc_weight:
            return super().evaluate(variables, batch)
        logits, ctc_logits = self._logits(variables, batch, method="both_logits")
        sums = self._measure(logits, batch)[-1]
        return sums | {"ctc_loss": (_ctc(ctc_logits, batch, self.eos).sum(), sums["loss"][1])}

    def predict(self, variables, batch: Batch, rng: jax.Array) -> dict[str, jax.Array]:
        """See seq2seq.Task; for the score of "ctc" see decoding.ctc_greedy."""
        if self.decoder != "ctc":
            return super().predict(variables, batch, rng)
        apply = lambda method, *args: self.model.apply(variables, *args, method=method)
        encoded = apply("encode", *(batch[f"source{what}"] for what in ("", "_segments", "_positions")))
        heard = batch["source_segments"] > 0
        tokens, scores = decoding.ctc_greedy(apply("ctc_logits", encoded), heard, self.max_decode_length)
        return {"tokens": tokens[:, None], "scores": scores[:, None]}

    def _source(self, batch_size: int) -> jax.ShapeDtypeStruct:
        shape = (batch_size, self.source_length * self.shortening, self.mels)
        return jax.ShapeDtypeStruct(shape, jnp.float32)


def _ctc(logits: jax.Array, batch: Batch, eos: int) -> jax.Array:
    """The weighted CTC loss of each row [batch]: -log P(target without EOS | encoder).

    0 where the sound has too few places for its tokens, with a blank between equal ones: no path is possible there.
    """
    padding = lambda here: 1 - here.astype(logits.dtype)
    labels, heard = batch["target"], batch["source_segments"] > 0
    labelled = (batch["target_segments"] > 0) & (labels != eos)
    losses = optax.ctc_loss(logits, padding(heard), labels, padding(labelled))
    repeats = (labels[:, 1:] == labels[:, :-1]) & labelled[:, 1:]
    possible = labelled.sum(1) + repeats.sum(1) <= heard.sum(1)
    return jnp.where(possible & (batch["weight"] > 0), losses * batch["weight"], 0)
