"""Speech to text: an encoder-decoder over spectrograms, with CTC on the encoder beside it or in place of it."""

import dataclasses
from typing import Any, ClassVar, cast

import jax
import jax.numpy as jnp
import optax

from research.models import decoding
from research.models.speech import Recogniser
from research.spec import checks, field, invalid
from research.spec.contracts import Batch, LossAux, Outputs, Sums, Totals, Variables
from research.tasks.seq2seq import DECODERS, EncoderDecoderTask, EncoderDecoderTaskSpec


class SpeechTaskSpec(EncoderDecoderTaskSpec, tag="speech"):
    """Speech to text. With the decoder "ctc", `max_decode_length` tokens at most are kept, without EOS."""

    DECODERS: ClassVar[tuple[str, ...]] = (*DECODERS, "ctc")

    ctc_weight: float = field(
        default=0.0, check=checks.at_least(0) & checks.at_most(1),
        doc="share of CTC in the loss (Kim et al., 2017); with 0 the encoder has no head",
    )  # fmt: skip

    def validate(self) -> None:
        """Raises FieldError for a decoder that the model has no head for."""
        super().validate()
        if self.decoder == "ctc" and not self.ctc_weight:
            raise invalid(self, "decoder", "needs a model that was trained with config.task.ctc_weight > 0")


@dataclasses.dataclass(frozen=True)
class SpeechTask(EncoderDecoderTask):
    """As EncoderDecoderTask, but a batch's `source` is float32 [batch, frames, mels], one sound a row.

    `source_segments` and `source_positions` count the places of the encoder, each of `model.spec.shortening` frames.
    """

    model: Recogniser
    spec: SpeechTaskSpec
    mels: int

    served = "spectrograms"

    def loss(self, variables: Variables, batch: Batch, totals: Totals, rng: jax.Array) -> tuple[jax.Array, LossAux]:
        """`(loss, ({}, sums))`: (1 - ctc_weight) times the decoder's loss and ctc_weight times CTC's, both a token."""
        if not self.spec.ctc_weight:
            return super().loss(variables, batch, totals, rng)
        logits, ctc_logits = self._logits(variables, batch, train=True, rngs={"dropout": rng}, method="both_logits")
        loss, sums = self._cross_entropy(logits, batch, totals)
        ctc = _ctc(ctc_logits, batch, self.eos)
        loss = (1 - self.spec.ctc_weight) * loss + self.spec.ctc_weight * ctc.sum() / totals["tokens"]
        return loss, ({}, sums | {"ctc_loss": (ctc.sum(), sums["loss"][1])})

    def evaluate(self, variables: Variables, batch: Batch) -> Sums:
        """As in EncoderDecoderTask, and the CTC loss, each with the number of target tokens, EOS included."""
        if not self.spec.ctc_weight:
            return super().evaluate(variables, batch)
        logits, ctc_logits = self._logits(variables, batch, method="both_logits")
        sums = self._measure(logits, batch)[-1]
        return sums | {"ctc_loss": (_ctc(ctc_logits, batch, self.eos).sum(), sums["loss"][1])}

    def predict(self, variables: Variables, batch: Batch, rng: jax.Array) -> Outputs:
        """See EncoderDecoderTask; for the score of "ctc" see decoding.ctc_greedy."""
        if self.spec.decoder != "ctc":
            return super().predict(variables, batch, rng)
        apply = lambda method, *args: self.model.apply(variables, *args, method=method)
        encoded = apply("encode", *(batch[f"source{what}"] for what in ("", "_segments", "_positions")))
        heard = batch["source_segments"] > 0
        logits = cast(jax.Array, apply("ctc_logits", encoded))
        tokens, scores = decoding.ctc_greedy(logits, heard, self.spec.max_decode_length)
        return {"tokens": tokens[:, None], "scores": scores[:, None]}

    def serve_inputs(self, batch: Any) -> dict[str, jax.ShapeDtypeStruct]:
        """As in EncoderDecoderTask, for sounds as long as evaluation hears them."""
        places = self.model.max_source_length
        shape = (batch, places * self.model.spec.shortening, self.mels)
        mask = jax.ShapeDtypeStruct((batch, places), jnp.int32)
        return {self.served: jax.ShapeDtypeStruct(shape, jnp.float32), "mask": mask}

    def _source(self, batch_size: int) -> jax.ShapeDtypeStruct:
        shape = (batch_size, self.source_length * self.model.spec.shortening, self.mels)
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
