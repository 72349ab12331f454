"""Text classification: softmax cross-entropy over the logits of a text encoder; without classes, text embeddings."""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax

from research.metrics import metric as metric_lib
from research.models.bert import Bert
from research.parallel.sharding import Table
from research.spec import contracts, field
from research.spec.contracts import Batch, ClassDataset, LossAux, Outputs, Sums, Totals, Variables
from research.tasks.classification import ClassificationScorer, LabelSpec, Soften


class TextClassificationSpec(LabelSpec, tag="text_classification"):
    """Text classification with softmax cross-entropy."""

    classes: tuple[str, ...] = field(
        default=(), doc="class names, in the order of the logits; empty: the model returns text embeddings"
    )


@dataclasses.dataclass(frozen=True)
class TextClassificationTask:
    """Pure functions over a text encoder such as `bert.Bert`.

    The keys of a batch are documented in research/data/text/dataset.py; `target` holds the classes of the texts packed
    into each row, with `target_segments` above 0 for them. In evaluation a row is one text.
    """

    model: Bert
    spec: TextClassificationSpec
    source_length: int
    target_length: int

    selection = ("accuracy", "max")
    served = "tokens"  # the name of the input of an exported program

    @property
    def logical_axes(self) -> Table:
        """From parameter path to logical axes."""
        return self.model.logical_axes

    def example(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """The shapes and dtypes of a batch, for compiling ahead of time."""
        sides = {"source": self.source_length, "target": self.target_length}
        rows = {
            f"{side}{what}": jax.ShapeDtypeStruct((batch_size, length), jnp.int32)
            for side, length in sides.items()
            for what in ("", "_segments", "_positions")
        }
        vector = lambda dtype: jax.ShapeDtypeStruct((batch_size,), dtype)
        return {**rows, "index": vector(jnp.int32), "weight": vector(jnp.float32)}

    def init(self, rng: jax.Array) -> Variables:
        """The initial variables: `params`."""
        zeros = jnp.zeros((1, self.source_length), jnp.int32)
        return self.model.init(rng, zeros, zeros)

    def totals(self, batch: Batch) -> Totals:
        """The normaliser of the loss: the number of texts in the global batch."""
        return {"examples": jnp.maximum(_weights(batch).sum(), 1)}

    def loss(self, variables: Variables, batch: Batch, totals: Totals, rng: jax.Array) -> tuple[jax.Array, LossAux]:
        """`(loss, ({}, sums))` of training; losses of microbatches and devices add up."""
        return self.softened_loss(variables, batch, totals, rng, lambda losses, logits, seen: losses)

    def softened_loss(
        self,
        variables: Variables,
        batch: Batch,
        totals: Totals,
        rng: jax.Array,
        soften: Soften,
    ) -> tuple[jax.Array, LossAux]:
        """As `loss`, with `soften(losses, logits, batch)` in place of the losses of the texts."""
        logits = self._logits(variables, batch, train=True, rngs={"dropout": rng})
        targets = jax.nn.one_hot(batch["target"], self.model.num_classes)
        smooth = optax.losses.smooth_labels(targets, self.spec.label_smoothing)
        losses = optax.losses.softmax_cross_entropy(logits, smooth)
        losses = soften(losses, logits, batch) * _weights(batch)
        return losses.sum() / totals["examples"], ({}, _sums(losses, logits, batch))

    def logits(self, variables: Variables, batch: Batch) -> jax.Array:
        """Logits [batch, texts, classes] of the texts of each row, in inference mode."""
        return self._logits(variables, batch)

    def evaluate(self, variables: Variables, batch: Batch) -> Sums:
        """Sums of cross-entropy (without label smoothing) and of correct predictions, each with the number of texts."""
        logits = self._logits(variables, batch)
        losses = optax.losses.softmax_cross_entropy_with_integer_labels(logits, batch["target"])
        return _sums(losses * _weights(batch), logits, batch)

    def predict(self, variables: Variables, batch: Batch, rng: jax.Array | None = None) -> Outputs:
        """Class probabilities [batch, classes] of the text of each row; its embedding if there are no classes."""
        del rng
        found = self.serve(variables, batch["source"], batch["source_segments"])
        return {"probabilities": jax.nn.softmax(found)} if self.spec.classes else {"embedding": found}

    def serve_inputs(self, batch: Any) -> dict[str, jax.ShapeDtypeStruct]:
        """See serving.Served: tokens and their mask (0 for padding)."""
        tokens = jax.ShapeDtypeStruct((batch, self.source_length), jnp.int32)
        return {self.served: tokens, "mask": tokens}

    def serve(self, variables: Variables, tokens: jax.Array, mask: jax.Array) -> jax.Array:
        """Logits [batch, classes], or embeddings without classes."""
        return cast(jax.Array, self.model.apply(variables, tokens, mask))

    def derived(self, means: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Further metrics of a whole split from its means: none."""
        return {}

    def check_selection(self, means: Collection[str], scored: bool) -> None:
        """See contracts.Task."""
        metric_lib.check(self.selection[0], means, scored)

    def scorer(self, data: ClassDataset, split: str) -> contracts.Scorer | None:
        """The scorer of predictions for a split of `data`, which runs on the host; None without classes."""
        return ClassificationScorer(data, split) if self.spec.classes else None

    def _logits(self, variables: Variables, batch: Batch, **options: Any) -> jax.Array:
        """[batch, texts, classes]."""
        if not self.spec.classes:
            raise ValueError("config.task.classes=() is empty; set it to the class names of the data set to train")
        source = (batch[f"source{what}"] for what in ("", "_segments", "_positions"))
        texts = batch["target"].shape[1]
        return cast(jax.Array, self.model.apply(variables, *source, texts=texts, **options))


def _weights(batch: Batch) -> jax.Array:
    """float32 [batch, texts]: the weight of the row for each text, 0 for padding."""
    return (batch["target_segments"] > 0) * batch["weight"][:, None]


def _sums(losses: jax.Array, logits: jax.Array, batch: Batch) -> Sums:
    weights = _weights(batch)
    correct = ((logits.argmax(-1) == batch["target"]) * weights).sum()
    return {"loss": (losses.sum(), weights.sum()), "accuracy": (correct, weights.sum())}
