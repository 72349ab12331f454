"""Dense retrieval: a text encoder trained contrastively, so that matching texts have similar embeddings."""

import dataclasses
import json
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from research.metrics import metric as metric_lib
from research.metrics import retrieval_scores
from research.models import faces
from research.models.bert import Bert
from research.models.layers import at_least_float32
from research.parallel.sharding import Table, constrain
from research.spec import Role, Spec, checks, contracts, field
from research.spec.contracts import Batch, HostOutputs, LossAux, Outputs, Sums, Totals, Variables

CHUNK = 1024  # queries per chunk of similarities, which bounds memory
_NEVER = -1e9  # the logit of masked targets; -inf would give NaN gradients


class RetrievalSpec(Spec, tag="retrieval"):
    """Text embeddings, trained with in-batch negatives."""

    temperature: float = field(
        default=0.05, check=checks.between(1e-3, 100), doc="softmax temperature of the cosines in the loss"
    )
    candidates: str = field(
        default="", role=Role.INFERENCE,
        doc="for predict: a file with one candidate text per line to rank; empty: embeddings are printed",
    )  # fmt: skip
    num_return: int = field(
        default=3,
        role=Role.INFERENCE,
        check=checks.between(1, 1000),
        doc="number of candidates returned for each text, nearest first",
    )
    select_by: str = field(
        default="mrr", check=checks.one_of(*retrieval_scores.NAMES), doc="metric that selects the best checkpoint"
    )


@dataclasses.dataclass(frozen=True)
class RetrievalTask:
    """Pure functions over an encoder without a head, such as `bert.Bert`, which is shared by both sides of a pair.

    The keys of a training batch are documented in research/data/text/pairs.py. In evaluation and prediction a row is
    one text.
    """

    model: Bert
    spec: RetrievalSpec
    source_length: int
    target_length: int
    pairs: int  # maximum number per row

    mixes_examples = "the loss of config.task.name='retrieval', with in-batch negatives,"  # see train/privacy.py
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
        """Raises ValueError unless evaluations are `scored`, as the metrics need all candidates of a split."""
        metric_lib.check(self.spec.select_by, means, scored)

    def example(self, batch_size: int) -> Mapping[str, jax.ShapeDtypeStruct]:
        """The shapes and dtypes of a training batch, for compiling ahead of time."""
        array = lambda *shape: jax.ShapeDtypeStruct((batch_size, *shape), jnp.int32)
        sides = {"source": self.source_length, "target": self.target_length}
        rows = {f"{side}{what}": array(sides[side]) for side in sides for what in ("", "_segments", "_positions")}
        digests = {f"{side}_digest": array(self.pairs, 2) for side in sides}
        weight = jax.ShapeDtypeStruct((batch_size,), jnp.float32)
        return {**rows, **digests, "index": array(), "weight": weight}

    def init(self, rng: jax.Array) -> Variables:
        """The initial variables: `params`."""
        zeros = jnp.zeros((1, self.source_length), jnp.int32)
        return self.model.init(rng, zeros, zeros)

    def totals(self, batch: Batch) -> Totals:
        """The normaliser of the loss: the number of pairs in the global batch."""
        return {"examples": jnp.maximum(_weights(batch).sum(), 1)}

    def loss(
        self, variables: Variables, batch: Batch, totals: Totals, rng: jax.Array
    ) -> tuple[Float[Array, ""], LossAux]:
        """`(loss, ({}, sums))` for training: InfoNCE (van den Oord et al., 2018) over the targets of the global batch.

        The logits of a source are its cosines with the targets of all pairs, divided by the temperature, and its class
        is its own target. Targets of pairs with the same source, and duplicates of its own target, are masked.
        `accuracy` is the fraction of sources whose own target is the most similar.
        """
        sides = [
            self._embed(variables, batch, side, train=True, rngs={"dropout": jax.random.fold_in(rng, number)})
            for number, side in enumerate(("source", "target"))
        ]
        queries, passages = sides[0], constrain(sides[1], (None, None, None))  # gathered from all devices
        logits = jnp.einsum("bne,cme->bncm", queries, passages) / self.spec.temperature
        weights = _weights(batch)
        own = _own(*weights.shape)
        may = own | (~_same(batch) & (weights > 0))
        logits = constrain(jnp.where(may, logits, _NEVER), ("batch", None, None, None))
        of_own = jnp.where(own, logits, 0).sum((2, 3))
        losses = (jax.nn.logsumexp(logits, axis=(2, 3)) - of_own) * weights
        right = (of_own >= logits.max((2, 3))) * weights
        count = weights.sum()
        sums = {"loss": (losses.sum(), count), "accuracy": (right.sum(), count)}
        return losses.sum() / totals["examples"], ({}, sums)

    def evaluate(self, variables: Variables, batch: Batch) -> Sums:
        """No sums: the metrics need the texts of a whole split, see RetrievalScorer."""
        return {}

    def predict(self, variables: Variables, batch: Batch, rng: jax.Array | None = None) -> Outputs:
        """The embedding of the text of each row, float32 [batch, width], of unit length."""
        del rng
        return {"embedding": self.serve(variables, batch["source"], batch["source_segments"])}

    def serve_inputs(self, batch: Any) -> dict[str, jax.ShapeDtypeStruct]:
        """See serving.Served: tokens and their mask (0 for padding)."""
        tokens = jax.ShapeDtypeStruct((batch, max(self.source_length, self.target_length)), jnp.int32)
        return {self.served: tokens, "mask": tokens}

    def serve(self, variables: Variables, tokens: jax.Array, mask: jax.Array) -> jax.Array:
        """Embeddings [batch, width] of unit length."""
        return self._unit(self.model.apply(variables, tokens, mask))

    def derived(self, means: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Further metrics of a whole split from its means: none."""
        return {}

    def scorer(self, data: "PairDataset", split: str) -> "RetrievalScorer":
        """The scorer of the embeddings of a split of `data`, which runs on the host."""
        return RetrievalScorer(data, split, self.spec.temperature)

    def _embed(self, variables: Variables, batch: Batch, side: str, **options: Any) -> jax.Array:
        """Unit-length embeddings [batch, pairs, width] of the texts of one side."""
        rows = (batch[f"{side}{what}"] for what in ("", "_segments", "_positions"))
        return self._unit(self.model.apply(variables, *rows, texts=self.pairs, **options))

    def _unit(self, features: Any) -> jax.Array:
        found = cast(jax.Array, features)
        return faces.unit(found.astype(at_least_float32(found.dtype)))


def _weights(batch: Batch) -> jax.Array:
    """float32 [batch, pairs]: the weight of the row for each pair, 0 for padding."""
    pairs = batch["source_digest"].shape[1]
    last = batch["source_segments"].max(axis=1, keepdims=True)  # segments are numbered from 1
    return (jnp.arange(pairs) < last) * batch["weight"][:, None]


def _own(rows: int, pairs: int) -> jax.Array:
    """bool [rows, pairs, rows, pairs]: whether source and target are of the same pair."""
    row, pair = jnp.arange(rows), jnp.arange(pairs)
    return (row[:, None, None, None] == row[:, None]) & (pair[:, None, None] == pair)


def _same(batch: Batch) -> jax.Array:
    """bool [rows, pairs, rows, pairs]: whether two pairs have equal sources or equal targets."""
    same = lambda digests: (digests[:, :, None, None] == digests).all(-1)
    return same(batch["source_digest"]) | same(batch["target_digest"])


class PairDataset(contracts.Dataset, Protocol):
    """A data set of pairs; see pairs.Pairs for the `index` of its evaluation batches."""

    def own(self, split: str) -> np.ndarray:
        """int64 [examples]: the index of the candidate that is the target of each example."""
        ...

    def firsts(self, split: str) -> np.ndarray:
        """int64 [candidates]: the index of the first example with each candidate as its target."""
        ...


class RetrievalScorer:
    """Collects the embeddings of a split and ranks its candidates for each example."""

    def __init__(self, data: PairDataset, split: str, temperature: float = np.nan):
        """`temperature` is that of the softmax over candidates which gives the nearest one a probability."""
        self._data, self._split, self._temperature = data, split, temperature
        self._embeddings: dict[int, np.ndarray] = {}
        self._own: np.ndarray | None = None
        self._ranked: retrieval_scores.Ranked | None = None
        self.signatures: dict[str, str] = {}

    def add(self, outputs: HostOutputs) -> None:
        """Adds the outputs of `RetrievalTask.predict` for a batch, with its `index` and `weight`."""
        rows = zip(outputs["index"], outputs["weight"], outputs["embedding"], strict=True)
        self._embeddings |= {int(index): embedding for index, weight, embedding in rows if weight > 0}

    def result(self) -> dict[str, float]:
        """The metrics by name, see metrics/retrieval_scores.py."""
        return self.rank(self.similarities())

    def similarities(self) -> Iterable[np.ndarray]:
        """The cosines of the added embeddings, in chunks [examples, candidates]."""
        embeddings = np.stack([self._embeddings[index] for index in range(len(self._embeddings))])
        count = self._data.counts[self._split]
        return cosines(embeddings[:count], embeddings[count:])

    def rank(self, similarities: Iterable[np.ndarray]) -> dict[str, float]:
        """As `result`, from chunks of similarities [examples, candidates] in the order of the examples."""
        self._own = self._data.own(self._split)
        self._ranked = retrieval_scores.rank(similarities, self._own, self._temperature)
        found = retrieval_scores.scores(self._ranked.rank)
        how = f"among the {self._own.max() + 1:,} distinct targets of the split; ties rank the correct target last"
        self.signatures = dict.fromkeys(found, how)
        return found

    def save(self, path: Path) -> None:
        """Writes one line of JSON per example, from which all metrics can be recomputed.

        {"index", "source", "target", "rank", "similarity", "nearest", "nearest_similarity", "probability"}; the last
        is that of the nearest candidate, and is left out without a temperature.
        """
        assert self._ranked is not None  # `result` is called first
        firsts = self._data.firsts(self._split).tolist()
        texts = [str(self._data.reference(self._split, index)["target"]) for index in firsts]
        with path.open("w", encoding="utf-8") as file:
            for index, found in enumerate(zip(*self._ranked, strict=True)):
                rank, similarity, nearest, best, probability = found
                example = self._data.reference(self._split, index)
                entry = {"index": index, "source": example["source"], "target": example["target"], "rank": int(rank)}
                entry |= {"similarity": round(float(similarity), 6), "nearest": texts[int(nearest)]}
                entry |= {"nearest_similarity": round(float(best), 6)}
                entry |= {} if np.isnan(probability) else {"probability": round(float(probability), 6)}
                file.write(json.dumps(entry, ensure_ascii=False) + "\n")


def cosines(queries: np.ndarray, candidates: np.ndarray) -> Iterable[np.ndarray]:
    """The cosines of unit-length embeddings [queries, width] and [candidates, width], in chunks of queries.

    In float64, so that equal texts have equal similarities whatever the order of summation.
    """
    columns = candidates.astype(np.float64).T
    for begin in range(0, len(queries), CHUNK):
        yield queries[begin : begin + CHUNK].astype(np.float64) @ columns
