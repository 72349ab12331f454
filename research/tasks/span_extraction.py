"""Extractive question answering: predicts the span of the context with the highest start and end logits.

As in Devlin et al., "BERT", 2019, sections 4.2 and 4.3: the target of a question without an answer is [CLS], and long
contexts are split into overlapping windows (run_squad.py).
"""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from research.metrics import answers, text_scores
from research.metrics import metric as metric_lib
from research.models.bert import Bert
from research.models.layers import at_least_float32
from research.models.shapes import AnyArray
from research.parallel.sharding import Table
from research.spec import Role, Spec, checks, field
from research.spec.contracts import Batch, HostOutputs, LossAux, Outputs, Sums, Totals, Variables

_NOWHERE = -1e9  # the logit of a masked token; -inf would give NaN gradients


class SpanExtractionSpec(Spec, tag="span_extraction"):
    """Extractive question answering: answers are spans of their contexts."""

    doc_stride: int = field(
        default=128, check=checks.between(1, 10_000_000),
        doc="tokens between the starts of consecutive windows of a long context (Devlin et al., 2019)",
    )  # fmt: skip
    min_span_f1: float = field(
        default=0.0, absent=0.0, check=checks.between(0, 1),
        doc="training answers that are not in their context are replaced by the span with the highest token F1, if it "
        "is at least this; 0: never",
    )  # fmt: skip
    max_answer_length: int = field(
        default=30, role=Role.INFERENCE, check=checks.between(1, 10_000), doc="maximum length of an answer in tokens"
    )
    unanswerable: bool = field(
        default=False, role=Role.INFERENCE, doc="whether questions may have no answer, as in SQuAD 2.0"
    )
    null_threshold: float = field(
        default=0.0, role=Role.INFERENCE, check=checks.between(-1e6, 1e6),
        doc="with unanswerable: predict no answer if its score exceeds that of the best span by this much",
    )  # fmt: skip
    num_return: int = field(
        default=1,
        role=Role.INFERENCE,
        check=checks.between(1, 100),
        doc="number of answers returned for each question, best first",
    )
    metrics: tuple[str, ...] = field(
        default=("squad",), check=checks.each(checks.one_of(*text_scores.METRICS)), doc="scores of answers"
    )
    select_by: str = field(
        default="loss", doc="metric that selects the best checkpoint: loss, span_accuracy or a score"
    )


@dataclasses.dataclass(frozen=True)
class SpanExtractionTask:
    """Pure functions over an encoder with two logits per token, such as `bert.Bert` with `of_tokens`.

    The keys of a batch are documented in research/data/text/spans.py. In evaluation and prediction a row is one window.
    """

    model: Bert
    spec: SpanExtractionSpec
    source_length: int
    windows: int  # maximum number per row

    served = "tokens"  # the name of the first input of an exported program

    @property
    def logical_axes(self) -> Table:
        """From parameter path to logical axes."""
        return self.model.logical_axes

    @property
    def selection(self) -> tuple[str, str]:
        """The metric that selects the best checkpoint, and "max" or "min"."""
        return self.spec.select_by, metric_lib.mode(self.spec.select_by)

    def check_selection(self, means: Collection[str], scored: bool) -> None:
        """See contracts.Task."""
        name, metrics = self.spec.select_by, self.spec.metrics
        metric_lib.check(name, means, scored and bool(metrics))
        if name not in means:
            answers.check_gives(metrics, name, means)

    def example(self, batch_size: int) -> Mapping[str, jax.ShapeDtypeStruct]:
        """The shapes and dtypes of a batch, for compiling ahead of time."""
        array = lambda *shape: jax.ShapeDtypeStruct((batch_size, *shape), jnp.int32)
        parts = ("", "_segments", "_positions", "_types", "_context")
        rows = {f"source{part}": array(self.source_length) for part in parts}
        weight = jax.ShapeDtypeStruct((batch_size,), jnp.float32)
        return {**rows, "answer": array(self.windows, 2), "shift": array(), "index": array(), "weight": weight}

    def init(self, rng: jax.Array) -> Variables:
        """The initial variables: `params`."""
        zeros = jnp.zeros((1, self.source_length), jnp.int32)
        return self.model.init(rng, zeros, zeros)

    def totals(self, batch: Batch) -> Totals:
        """The normaliser of the loss: the number of windows in the global batch whose answer is known."""
        return {"examples": jnp.maximum(_weights(batch).sum(), 1)}

    def loss(
        self, variables: Variables, batch: Batch, totals: Totals, rng: jax.Array
    ) -> tuple[Float[Array, ""], LossAux]:
        """`(loss, ({}, sums))` for training; the losses of microbatches and devices add up."""
        losses, sums = self._measure(variables, batch, train=True, rngs={"dropout": rng})
        return losses.sum() / totals["examples"], ({}, sums)

    def evaluate(self, variables: Variables, batch: Batch) -> Sums:
        """Sums of the loss and of windows with correct start and end, each with the number of windows."""
        return self._measure(variables, batch)[1]

    def predict(self, variables: Variables, batch: Batch, rng: jax.Array | None = None) -> Outputs:
        """The best spans of the window of each row; `combine` merges the windows of a question.

        spans    int32 [batch, answers, 2], best first: the indices in the context of the first and the last token
        scores   float32 [batch, answers]: the sum of start and end logits; -inf for missing spans
        log_z    float32 [batch]: the logarithm of the sum of exp(score) over all valid spans
        null     float32 [batch]: the score of no answer, which is that of [CLS]

        A span starts at a token for which this window has the maximum context, so that each span is in one window only,
        and has at most `max_answer_length` tokens.
        """
        del rng
        logits = self._logits(variables, batch)
        context = batch["source_context"] * (batch["source_segments"] == 1)
        spans, scores, log_z = best_spans(logits, context, self.spec.max_answer_length, self.spec.num_return)
        null = logits[:, 0].sum(-1)
        return {"spans": spans + batch["shift"][:, None, None], "scores": scores, "log_z": log_z, "null": null}

    def serve_inputs(self, batch: Any) -> dict[str, jax.ShapeDtypeStruct]:
        """See serving.Served: tokens, their mask (0 for padding), and token types (1 from the context on)."""
        tokens = jax.ShapeDtypeStruct((batch, self.source_length), jnp.int32)
        return {self.served: tokens, "mask": tokens, "types": tokens}

    def serve(self, variables: Variables, tokens: jax.Array, mask: jax.Array, types: jax.Array) -> jax.Array:
        """Start and end logits [batch, length, 2]."""
        return self._apply(variables, types, tokens, mask)

    def derived(self, means: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Further metrics of a whole split from its means: none."""
        return {}

    def scorer(self, data: "SpanDataset", split: str) -> "SpanScorer | None":
        """The scorer of predictions for a split of `data`, which runs on the host; None without metrics."""
        return SpanScorer(self.spec, data, split) if self.spec.metrics else None

    def _apply(self, variables: Variables, types: jax.Array, *inputs: jax.Array, **options: Any) -> jax.Array:
        """The logits for `inputs`: tokens, segments and optional positions; `types` only if the model has several."""
        known = {"types": types} if self.model.spec.token_types > 1 else {}
        logits = cast(jax.Array, self.model.apply(variables, *inputs, **known, **options))
        return logits.astype(at_least_float32(logits.dtype))

    def _logits(self, variables: Variables, batch: Batch, **options: Any) -> jax.Array:
        parts = (batch[f"source{part}"] for part in ("", "_segments", "_positions"))
        return self._apply(variables, batch["source_types"], *parts, **options)

    def _measure(self, variables: Variables, batch: Batch, **options: Any) -> tuple[jax.Array, Sums]:
        """The weighted losses [batch, windows], the mean of the cross-entropies of start and end; and metric sums.

        The classes are the tokens of the context in a window, and its [CLS].
        """
        logits, weights = self._logits(variables, batch, **options), _weights(batch)
        segments, positions = batch["source_segments"], batch["source_positions"]
        own = segments[:, None] == jnp.arange(1, weights.shape[1] + 1)[:, None]  # [batch, windows, length]
        may = own & ((batch["source_context"] > 0) | (positions == 0))[:, None]
        chosen = jnp.where(may[..., None], logits[:, None], _NOWHERE)  # [batch, windows, length, 2]
        right = own[..., None] & (positions[:, None, :, None] == batch["answer"][:, :, None])
        # A masked sum, since indexing would gather a length that is sharded over devices.
        of_right = jnp.where(right, chosen, 0).sum(2)
        losses = (jax.nn.logsumexp(chosen, axis=2) - of_right).mean(-1) * weights
        both = (of_right >= chosen.max(2)).all(-1) * weights
        count = weights.sum()
        return losses, {"loss": (losses.sum(), count), "span_accuracy": (both.sum(), count)}


def _weights(batch: Batch) -> jax.Array:
    """float32 [batch, windows]: the weight of the row for a window whose answer is known, else 0."""
    return (batch["answer"][..., 0] >= 0) * batch["weight"][:, None]


def best_spans(
    logits: Float[AnyArray, "batch length 2"], context: Int[AnyArray, "batch length"], most: int, count: int
) -> tuple[Int[Array, "batch answers 2"], Float[Array, "batch answers"], Float[Array, " batch"]]:
    """The `count` best spans (first, last) of up to `most` tokens, their scores, and log(sum(exp(score))) over all.

    A span starts at a token with `context` 2 and ends at one with `context` above 0. Short rows have fewer than `count`
    spans.
    """
    length, most = logits.shape[1], min(most, logits.shape[1])
    first = jnp.where(context > 1, logits[..., 0], -jnp.inf)
    last = jnp.where(context > 0, logits[..., 1], -jnp.inf)
    ends = jnp.arange(length)[:, None] + jnp.arange(most)
    later = jnp.pad(last, ((0, 0), (0, most - 1)), constant_values=-jnp.inf)[:, ends]  # [batch, length, most]
    scores = (first[..., None] + later).reshape(len(logits), length * most)
    best, index = jax.lax.top_k(scores, min(count, length * most))
    begin = index // most
    return jnp.stack([begin, begin + index % most], axis=-1), best, jax.nn.logsumexp(scores, axis=1)


class Span(NamedTuple):
    """An answer: its first and last token in the context (-1: no answer) and its log probability."""

    first: int
    last: int
    log_probability: float


class Combined(NamedTuple):
    """The answers to a question, best first, and the score of no answer minus that of the best span."""

    answers: list[Span]
    null_difference: float


def combine(outputs: HostOutputs, spec: SpanExtractionSpec) -> dict[int, Combined]:
    """{index: answers} from the outputs of `predict`; windows with the same `index` belong to one question.

    The score of no answer is the minimum over all windows; no answer is predicted if that score exceeds the score of
    the best span by more than `null_threshold` (Devlin et al., 2019). Probabilities are normalised over all spans and,
    with `unanswerable`, no answer. A context without valid spans gives no answer.
    """
    groups: dict[int, list[int]] = {}
    for row in np.flatnonzero(outputs["weight"] > 0).tolist():
        groups.setdefault(int(outputs["index"][row]), []).append(row)
    return {index: _of_one({name: outputs[name][rows] for name in _NAMES}, spec) for index, rows in groups.items()}


_NAMES = ("spans", "scores", "log_z", "null")


def _of_one(outputs: HostOutputs, spec: SpanExtractionSpec) -> Combined:
    null = float(outputs["null"].min())
    scores, spans = outputs["scores"].astype(np.float64).ravel(), outputs["spans"].reshape(-1, 2).tolist()
    order = [index for index in np.argsort(-scores, kind="stable") if np.isfinite(scores[index])]
    if not order:
        return Combined([Span(-1, -1, 0.0)], float("inf"))
    log_z, difference = np.logaddexp.reduce(outputs["log_z"].astype(np.float64)), null - scores[order[0]]
    log_z = np.logaddexp(log_z, null) if spec.unanswerable else log_z
    span = lambda index: Span(spans[index][0], spans[index][1], float(scores[index] - log_z))
    found = [(float(scores[index]), span(index)) for index in order]
    if spec.unanswerable:
        found.append((null - spec.null_threshold, Span(-1, -1, float(null - log_z))))
        found.sort(key=lambda each: -each[0])  # stable: a span comes before no answer of the same score
    return Combined([span for _, span in found[: spec.num_return]], float(difference))


class SpanDataset(answers.TextDataset, Protocol):
    """A data set of questions whose answers are spans of their contexts."""

    def contexts(self, split: str, indices: Sequence[int]) -> list[str]:
        """The contexts of examples of a split."""
        ...

    def cut(self, contexts: Sequence[str], spans: Sequence[Sequence[tuple[int, int]]]) -> list[list[str]]:
        """The texts of token spans (first, last) of each context; an empty text for a negative span."""
        ...


class SpanScorer(answers.TextScorer):
    """Merges the windows of each question of a split and compares the best answer with the references."""

    def __init__(self, spec: SpanExtractionSpec, data: SpanDataset, split: str):
        super().__init__(spec.metrics, data, split)
        self._spec, self._spans = spec, data
        self._windows: list[HostOutputs] = []
        self._found: dict[int, Combined] = {}

    def add(self, outputs: HostOutputs) -> None:
        """Adds the outputs of `SpanExtractionTask.predict` for a batch of windows."""
        self._windows.append({name: outputs[name] for name in (*_NAMES, "index", "weight")})

    def result(self) -> dict[str, float]:
        """The scores of all predicted answers, by name."""
        best = min(outputs["scores"].shape[1] for outputs in self._windows)  # longer rows may have more spans
        whole = {
            name: np.concatenate([each[name][:, :best] if name in _NAMES[:2] else each[name] for each in self._windows])
            for name in self._windows[0]
        }
        self._found = combine(whole, self._spec)
        spans = [[(found.answers[0].first, found.answers[0].last)] for found in self._found.values()]
        texts = self._spans.cut(self._spans.contexts(self._split, list(self._found)), spans)
        self._answers = {index: text for index, (text,) in zip(self._found, texts, strict=True)}
        return super().result()

    def _entries(self) -> list[dict[str, Any]]:
        """As in TextScorer, with the probability of the answer and the score compared with `null_threshold`."""
        entries = super()._entries()
        for entry in entries:
            found = self._found[entry["index"]]
            entry["probability"] = round(float(np.exp(found.answers[0].log_probability)), 6)
            entry["null_difference"] = round(found.null_difference, 4)
        return entries
