"""Sequence to sequence: teacher-forced cross-entropy with label smoothing and z-loss; decoding and its scores."""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any, ClassVar, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Int, Shaped

from research.metrics import answers, text_scores
from research.metrics import metric as metric_lib
from research.models import decoding
from research.models.layers import at_least_float32
from research.models.shapes import AnyArray
from research.parallel.sharding import Table
from research.spec import Role, Spec, checks, field, invalid
from research.spec.contracts import Batch, HostOutputs, LossAux, Outputs, Sums, Totals, Variables

DECODERS = ("beam", "greedy", "sample")
_SIDES = ("source", "target")


class EncoderDecoderTaskSpec(Spec):
    """The loss of an encoder-decoder, and the decoding and scoring of its predictions; see models/decoding.py."""

    DECODERS: ClassVar[tuple[str, ...]] = DECODERS

    label_smoothing: float = field(
        default=0.0, check=checks.from_up_to(0, 1), doc="label smoothing: probability spread over all tokens"
    )
    z_loss: float = field(
        default=0.0, check=checks.at_least(0) & checks.at_most(1),
        doc="weight of log(Z)^2 per token, which keeps logits small (Shazeer et al., 2018)",
    )  # fmt: skip
    decoder: str = field(default="beam", role=Role.INFERENCE, doc="decoding algorithm")
    max_decode_length: int = field(
        default=128,
        role=Role.INFERENCE,
        check=checks.between(1, 10_000_000),
        doc="maximum length of decoded texts in tokens, with EOS",
    )
    beam_size: int = field(
        default=4, role=Role.INFERENCE, check=checks.between(1, 10_000), doc="for decoder='beam': number of beams"
    )
    length_penalty: float = field(
        default=0.6, role=Role.INFERENCE, check=checks.between(-10, 10),
        doc="for decoder='beam': scores are divided by ((5 + tokens) / 6) to this power",
    )  # fmt: skip
    early_stopping: bool = field(
        default=False, role=Role.INFERENCE, doc="for decoder='beam': stop once beam_size hypotheses are finished"
    )
    num_return: int = field(default=1, role=Role.INFERENCE, check=checks.at_least(1), doc="predicted texts per example")
    temperature: float = field(
        default=1.0,
        role=Role.INFERENCE,
        check=checks.between(0, 1000),
        doc="for decoder='sample': temperature; 0: greedy",
    )
    top_k: int = field(
        default=0, role=Role.INFERENCE, check=checks.at_least(0),
        doc="for decoder='sample': sample from the most likely k tokens; 0: off",
    )  # fmt: skip
    top_p: float = field(
        default=1.0, role=Role.INFERENCE, check=checks.above(0) & checks.at_most(1),
        doc="for decoder='sample': nucleus sampling, total probability of the tokens; 1: off",
    )  # fmt: skip
    metrics: tuple[str, ...] = field(
        default=(), check=checks.each(checks.one_of(*text_scores.METRICS)), doc="scores of predicted texts"
    )
    select_by: str = field(default="loss", doc="metric that selects the best checkpoint: loss, perplexity or a score")

    @property
    def beams(self) -> int:
        """The number of hypotheses per example."""
        return self.beam_size if self.decoder == "beam" else 1

    def validate(self) -> None:
        """Raises FieldError for an unknown decoder, and if num_return exceeds its number of hypotheses."""
        if not (known := checks.one_of(*self.DECODERS)).accepts(self.decoder):
            raise invalid(self, "decoder", known.requirement)
        if self.num_return > self.beams:
            most = f"beam_size={self.beam_size}" if self.decoder == "beam" else f"1 with decoder={self.decoder!r}"
            raise invalid(self, "num_return", f"must be at least 1 and at most {most}")


class Seq2SeqTaskSpec(EncoderDecoderTaskSpec, tag="seq2seq"):
    """The task of text-to-text models."""

    word_dropout: float = field(
        default=0.0, check=checks.from_up_to(0, 1),
        doc="word dropout: share of source tokens replaced by unk while training (Iyyer et al., 2015)",
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class EncoderDecoderTask:
    """Training and decoding with an encoder-decoder such as `seq2seq.Seq2Seq`.

    A batch holds `index` int32 [batch] and `weight` float32 [batch], which is 0 for padding, and int32 [batch, length]
    `source`, `source_segments`, `source_positions` and the same of `target`, see `research/data/text/dataset.py` (with
    `model.sentence_length`, `source` is [batch, length, sentence_length]). The decoder input is `target` shifted right
    by one, with `bos` before each example of a row.
    """

    model: nn.Module
    spec: EncoderDecoderTaskSpec
    source_length: int
    target_length: int
    bos: int
    eos: int
    unk: int

    served = "tokens"  # the name of the source of an exported program

    def __post_init__(self) -> None:
        """Raises ValueError for invalid decoding settings."""
        if self.spec.decoder not in DECODERS:  # ctc has no settings to check
            return
        # Trace decoding now, so that its errors are raised before training.
        step = lambda tokens, position, cache: (jnp.zeros((len(tokens), self.model.vocab_size)), cache)
        jax.eval_shape(lambda: self._search(step, {"hypotheses": {}}, 1, jax.random.key(0)))

    @property
    def logical_axes(self) -> Table:
        """The table from parameter path to logical axes."""
        return self.model.logical_axes

    @property
    def selection(self) -> tuple[str, str]:
        """The metric that selects the best checkpoint, and "max" or "min"."""
        return self.spec.select_by, metric_lib.mode(self.spec.select_by)

    def example(self, batch_size: int) -> Mapping[str, jax.ShapeDtypeStruct]:
        """The shapes and dtypes of a batch, for compiling ahead of time."""
        vector = lambda dtype: jax.ShapeDtypeStruct((batch_size,), dtype)
        rows = {
            f"{side}{what}": jax.ShapeDtypeStruct((batch_size, getattr(self, f"{side}_length")), jnp.int32)
            for side in _SIDES
            for what in ("", "_segments", "_positions")
        }
        rows["source"] = self._source(batch_size)
        return {**rows, "index": vector(jnp.int32), "weight": vector(jnp.float32)}

    def _source(self, batch_size: int) -> jax.ShapeDtypeStruct:
        tokens = getattr(self.model, "sentence_length", 0)
        return jax.ShapeDtypeStruct((batch_size, self.source_length, *((tokens,) if tokens else ())), jnp.int32)

    def init(self, rng: jax.Array) -> Variables:
        """Initial variables: `params`."""
        zeros = {name: jnp.zeros(leaf.shape, leaf.dtype) for name, leaf in self.example(1).items()}
        arrays = (zeros[f"{side}{what}"] for side in _SIDES for what in ("", "_segments", "_positions"))
        return self.model.init(rng, *arrays)

    def totals(self, batch: Batch) -> Totals:
        """The normaliser of the loss: the target tokens of the whole global batch."""
        return {"tokens": jnp.maximum(_token_weights(batch).sum(), 1)}

    def loss(
        self, variables: Variables, batch: Batch, totals: Totals, rng: jax.Array
    ) -> tuple[Float[Array, ""], LossAux]:
        """`(loss, ({}, sums))` for training; the losses of microbatches add up."""
        batch, options = self._augment(batch, rng)
        logits = self._logits(variables, batch, train=True, rngs={"dropout": rng}, **options)
        loss, sums = self._cross_entropy(logits, batch, totals)
        return loss, ({}, sums)

    def _augment(self, batch: Batch, rng: jax.Array) -> tuple[Batch, dict[str, jax.Array]]:
        """The augmented batch for training, and additional arguments for the model."""
        return batch, {}

    def _cross_entropy(self, logits: jax.Array, batch: Batch, totals) -> tuple[jax.Array, Sums]:
        """The loss of the decoder's logits, and the sums of its metrics."""
        plain, log_z, sums = self._measure(logits, batch)
        smooth = self.spec.label_smoothing
        losses = (1 - smooth) * plain + smooth * (log_z - logits.mean(-1)) + self.spec.z_loss * log_z**2
        return (losses * _token_weights(batch)).sum() / totals["tokens"], sums

    def evaluate(self, variables: Variables, batch: Batch) -> Sums:
        """Sums of unsmoothed cross-entropy and of correct tokens, each with the number of target tokens."""
        return self._measure(self._logits(variables, batch), batch)[-1]

    def derived(self, means: Mapping[str, np.ndarray]) -> dict[str, float]:
        """The perplexity per token of the whole split: exp(total loss / total tokens)."""
        with np.errstate(over="ignore"):  # may be infinite
            return {"perplexity": float(np.exp(means["loss"]))}

    def predict(self, variables: Variables, batch: Batch, rng: jax.Array) -> Outputs:
        """`tokens` int32 [batch, num_return, max_decode_length], 0 after EOS, and `scores` [batch, num_return]."""
        # Padding rows take the first row's source, since they would be decoded up to the length limit.
        real = lambda x: (batch["weight"] > 0).reshape(-1, *[1] * (x.ndim - 1))
        filled = lambda x: jnp.where(real(x), x, x[:1])
        source, segments, positions = (filled(batch[f"source{what}"]) for what in ("", "_segments", "_positions"))
        apply = lambda method, *args: self.model.apply(variables, *args, method=method)
        encoded = apply("encode", source, segments, positions)
        cache = apply("init_cache", encoded, segments, self.spec.max_decode_length, self.spec.beams, source)
        tokens, scores = self._search(lambda *args: apply("decode_step", *args), cache, len(source), rng)
        return {"tokens": tokens, "scores": scores}

    def serve_inputs(self, batch: Any) -> dict[str, jax.ShapeDtypeStruct]:
        """See serving.Served; the source, and its mask, 0 for padding."""
        source = self._source(batch)
        return {self.served: source, "mask": jax.ShapeDtypeStruct(source.shape[:2], jnp.int32)}

    def serve(
        self, variables: Variables, source: Shaped[AnyArray, "batch length ..."], mask: Int[AnyArray, "batch encoded"]
    ) -> Int[Array, "batch max_decode_length"]:
        """The tokens [batch, max_decode_length] of greedy decoding, 0 after EOS."""
        apply = lambda method, *args: cast(Any, self.model.apply(variables, *args, method=method))
        steps, positions = self.spec.max_decode_length, jnp.broadcast_to(jnp.arange(mask.shape[1]), mask.shape)
        cache = apply("init_cache", apply("encode", source, mask, positions), mask, steps, 1, source)
        step = lambda *args: apply("decode_step", *args)
        return decoding.greedy(step, cache, source.shape[0], steps, self.bos, self.eos)[0]

    def check_selection(self, means: Collection[str], scored: bool) -> None:
        """See Task.check_selection."""
        name, metrics = self.spec.select_by, self.spec.metrics
        metric_lib.check(name, means, scored and bool(metrics))
        if name not in means:
            answers.check_gives(metrics, name, means)

    def scorer(self, data: answers.TextDataset, split: str) -> answers.TextScorer | None:
        """Scores the predicted texts of a split of `data` on the host; None without metrics."""
        return answers.TextScorer(self.spec.metrics, data, split, self._probability) if self.spec.metrics else None

    def _probability(self, outputs: HostOutputs) -> np.ndarray:
        """The probability [batch] of the best text of each row, from the scores of `predict`."""
        scores, tokens = np.float64(outputs["scores"][:, 0]), outputs["tokens"][:, 0]
        if self.spec.decoder == "beam":
            scores = scores * decoding.normaliser(np.count_nonzero(tokens, axis=1), self.spec.length_penalty)
        return np.exp(np.minimum(scores, 0))

    def _search(
        self, step, cache, count: int, rng: jax.Array
    ) -> tuple[Int[Array, "count num_return length"], Float[Array, "count num_return"]]:
        """Tokens [count, num_return, max_decode_length] and scores [count, num_return], best first."""
        arguments = (step, cache, count, self.spec.max_decode_length, self.bos, self.eos)
        if self.spec.decoder == "beam":
            return decoding.beam_search(
                *arguments, beam_size=self.spec.beam_size, length_penalty=self.spec.length_penalty,
                early_stopping=self.spec.early_stopping, num_return=self.spec.num_return,
            )  # fmt: skip
        if self.spec.decoder == "greedy":
            tokens, scores = decoding.greedy(*arguments)
        else:
            settings = {"temperature": self.spec.temperature, "top_k": self.spec.top_k, "top_p": self.spec.top_p}
            tokens, scores = decoding.sample(*arguments, rng=rng, **settings)
        return tokens[:, None], scores[:, None]

    def _logits(self, variables: Variables, batch: Batch, **options) -> jax.Array:
        target_in = shift_right(batch["target"], batch["target_positions"], self.bos)
        source, target = ((batch[f"{side}_segments"], batch[f"{side}_positions"]) for side in _SIDES)
        logits = self.model.apply(variables, batch["source"], *source, target_in, *target, **options)
        return cast(jax.Array, logits)

    def _measure(self, logits: jax.Array, batch: Batch) -> tuple[jax.Array, jax.Array, Sums]:
        """Cross-entropy and log partition function of each target token, and their sums."""
        logits = logits.astype(at_least_float32(logits.dtype))
        # A masked sum, since indexing would gather a vocabulary that is sharded over devices.
        chosen = jax.nn.one_hot(batch["target"], logits.shape[-1], dtype=bool)
        right = jnp.where(chosen, logits, 0).sum(-1)
        log_z = jax.nn.logsumexp(logits, axis=-1)
        weights = _token_weights(batch)
        tokens = weights.sum()
        best = (right >= logits.max(-1)) * weights  # an argmax takes several times as long on a CPU
        sums = {"loss": (((log_z - right) * weights).sum(), tokens), "token_accuracy": (best.sum(), tokens)}
        return log_z - right, log_z, sums


@dataclasses.dataclass(frozen=True)
class Seq2SeqTask(EncoderDecoderTask):
    """An EncoderDecoderTask for token sources, with word dropout."""

    spec: Seq2SeqTaskSpec

    def _augment(self, batch: Batch, rng: jax.Array) -> tuple[Batch, dict[str, jax.Array]]:
        if not self.spec.word_dropout:
            return batch, {}
        # A separate key, independent of the layers' use of `rng`.
        dropped = jax.random.bernoulli(jax.random.fold_in(rng, 1), self.spec.word_dropout, batch["source"].shape)
        # Padding is kept: within sentences, nothing else masks it.
        dropped_out = batch | {"source": jnp.where(dropped & (batch["source"] > 0), self.unk, batch["source"])}
        # Only the encoder's input is dropped; the copy head sees the original ids.
        return dropped_out, {"copied": batch["source"]} if self.model.spec.has_pointer else {}


def shift_right(
    target: Int[AnyArray, "batch length"], positions: Int[AnyArray, "batch length"], bos: int
) -> Int[Array, "batch length"]:
    """The decoder input for `target` [batch, length]: the previous token, `bos` at position 0."""
    return jnp.where(positions == 0, bos, jnp.roll(target, 1, axis=1))


def _token_weights(batch: Batch) -> jax.Array:
    """float32 [batch, length]: the weight of the row for target tokens, 0 for padding."""
    return (batch["target_segments"] > 0) * batch["weight"][:, None]
