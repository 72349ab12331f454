"""Classification with a text model: the likelihood of each class's text as the target."""

import dataclasses
from collections.abc import Sequence
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np

from research.models.layers import at_least_float32
from research.spec.contracts import Batch, HostOutputs, Outputs, Variables
from research.tasks import seq2seq


@dataclasses.dataclass(frozen=True)
class ClassWords(seq2seq.Seq2SeqTask):
    """A Seq2SeqTask whose `predict` compares the likelihoods of `classes`, token ids of targets, each with EOS."""

    classes: tuple[tuple[int, ...], ...] = ()

    @classmethod
    def of(cls, task: seq2seq.Seq2SeqTask, classes: Sequence[Sequence[int]]) -> "ClassWords":
        """`task` with these classes."""
        fields = {field.name: getattr(task, field.name) for field in dataclasses.fields(seq2seq.Seq2SeqTask)}
        return cls(**fields, classes=tuple(map(tuple, classes)))

    def predict(self, variables: Variables, batch: Batch, rng: jax.Array) -> Outputs:
        """`tokens` int32 [batch, classes, length], the most likely class first, and `scores` [batch, classes].

        A score is the log-probability of a class: P(target | source) of its tokens with EOS, normalised over the
        classes, so that the probabilities of an example sum to 1.
        """
        words = np.zeros((len(self.classes), max(map(len, self.classes))), np.int32)
        for row, ids in zip(words, self.classes, strict=True):
            row[: len(ids)] = ids
        used = np.arange(words.shape[1]) < np.array([[len(ids)] for ids in self.classes])
        apply = lambda method, *args: self.model.apply(variables, *args, method=method)
        source, segments, positions = (batch[f"source{what}"] for what in ("", "_segments", "_positions"))
        encoded = apply("encode", source, segments, positions)

        def log_likelihood(target, used):
            target, used = (jnp.broadcast_to(row, (len(source), len(row))) for row in (target, used))
            positions_out = jnp.broadcast_to(jnp.arange(target.shape[1], dtype=jnp.int32), target.shape)
            target_in = seq2seq.shift_right(target, positions_out, self.bos)
            arguments = (target_in, used.astype(jnp.int32), positions_out, False, source)
            logits = cast(jax.Array, apply("decode", encoded, segments, *arguments))
            log_probabilities = jax.nn.log_softmax(logits.astype(at_least_float32(logits.dtype)))
            chosen = jnp.take_along_axis(log_probabilities, target[..., None], axis=-1)[..., 0]
            return jnp.where(used, chosen, 0).sum(-1)

        scores = jax.nn.log_softmax(
            jnp.stack([log_likelihood(*each) for each in zip(words, used, strict=True)], axis=1)
        )
        order = jnp.argsort(scores, axis=1, descending=True)
        return {"tokens": jnp.asarray(words)[order], "scores": jnp.take_along_axis(scores, order, axis=1)}

    def _probability(self, outputs: HostOutputs) -> np.ndarray:
        """The probability [batch] of the most likely class."""
        return np.exp(np.float64(outputs["scores"][:, 0]))
