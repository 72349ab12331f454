"""Speech to text: an encoder-decoder over spectrograms, with CTC on the encoder as an auxiliary or only loss."""

import dataclasses
from typing import Any, ClassVar, cast

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from research.models import decoding
from research.models.speech import Recogniser
from research.spec import checks, field, invalid
from research.spec.contracts import Batch, LossAux, Outputs, Sums, Totals, Variables
from research.tasks.seq2seq import DECODERS, EncoderDecoderTask, EncoderDecoderTaskSpec


class SpeechTaskSpec(EncoderDecoderTaskSpec, tag="speech"):
    """Speech to text. The decoder "ctc" returns at most `max_decode_length` tokens, without EOS."""

    DECODERS: ClassVar[tuple[str, ...]] = (*DECODERS, "ctc")

    ctc_weight: float = field(
        default=0.0, check=checks.at_least(0) & checks.at_most(1),
        doc="weight of the CTC loss, between 0 and 1 (Kim et al., 2017); 0: no CTC head",
    )  # fmt: skip

    def validate(self) -> None:
        """Raises FieldError for the decoder "ctc" without a CTC head."""
        super().validate()
        if self.decoder == "ctc" and not self.ctc_weight:
            raise invalid(self, "decoder", "needs a model that was trained with config.task.ctc_weight > 0")


@dataclasses.dataclass(frozen=True)
class SpeechTask(EncoderDecoderTask):
    """As EncoderDecoderTask, but `source` is float32 [batch, frames, mels], one recording per row.

    `source_segments` and `source_positions` are those of the encoder: `model.spec.downsampling` frames per position.
    """

    model: Recogniser
    spec: SpeechTaskSpec
    mels: int

    served = "spectrograms"

    def loss(
        self, variables: Variables, batch: Batch, totals: Totals, rng: jax.Array
    ) -> tuple[Float[Array, ""], LossAux]:
        """`(loss, ({}, sums))`: (1 - ctc_weight) times the decoder loss plus ctc_weight times CTC, both per token."""
        if not self.spec.ctc_weight:
            return super().loss(variables, batch, totals, rng)
        logits, ctc_logits = self._logits(variables, batch, train=True, rngs={"dropout": rng}, method="both_logits")
        loss, sums = self._cross_entropy(logits, batch, totals)
        ctc = _ctc(ctc_logits, batch, self.eos)
        loss = (1 - self.spec.ctc_weight) * loss + self.spec.ctc_weight * ctc.sum() / totals["tokens"]
        return loss, ({}, sums | {"ctc_loss": (ctc.sum(), sums["loss"][1])})

    def evaluate(self, variables: Variables, batch: Batch) -> Sums:
        """As in EncoderDecoderTask, and the CTC loss, each with the number of target tokens including EOS."""
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
        mask = batch["source_segments"] > 0
        logits = cast(jax.Array, apply("ctc_logits", encoded))
        tokens, scores = decoding.ctc_greedy(logits, mask, self.spec.max_decode_length)
        return {"tokens": tokens[:, None], "scores": scores[:, None]}

    def serve_inputs(self, batch: Any) -> dict[str, jax.ShapeDtypeStruct]:
        """As in EncoderDecoderTask, with the number of frames used in evaluation."""
        length = self.model.max_source_length
        shape = (batch, length * self.model.spec.downsampling, self.mels)
        mask = jax.ShapeDtypeStruct((batch, length), jnp.int32)
        return {self.served: jax.ShapeDtypeStruct(shape, jnp.float32), "mask": mask}

    def _source(self, batch_size: int) -> jax.ShapeDtypeStruct:
        shape = (batch_size, self.source_length * self.model.spec.downsampling, self.mels)
        return jax.ShapeDtypeStruct(shape, jnp.float32)


def _ctc(logits: jax.Array, batch: Batch, eos: int) -> jax.Array:
    """The weighted CTC loss of each row [batch]: -log P(target without EOS | encoder).

    0 if there are fewer encoder positions than tokens and blanks between repeated tokens, as no alignment exists then.
    """
    padding = lambda mask: 1 - mask.astype(logits.dtype)
    labels, mask = batch["target"], batch["source_segments"] > 0
    labelled = (batch["target_segments"] > 0) & (labels != eos)
    losses = optax.ctc_loss(logits, padding(mask), labels, padding(labelled))
    repeats = (labels[:, 1:] == labels[:, :-1]) & labelled[:, 1:]
    possible = labelled.sum(1) + repeats.sum(1) <= mask.sum(1)
    return jnp.where(possible & (batch["weight"] > 0), losses * batch["weight"], 0)
