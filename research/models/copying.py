"""Copying from the source: a pointer beside the vocabulary (See et al., "Get To The Point", 2017; Gu et al., 2016).

A pointer-generator: a small model with random initial weights cannot generate a rare token of its source, but it can
learn to attend to its position and copy it.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from research.models.dense import Dense, platform
from research.models.layers import tokens as token_axes
from research.models.shapes import AnyArray
from research.parallel.sharding import constrain, traced_mesh

Source = dict[str, AnyArray]

LOGICAL_AXES = (
    ("pointer/(query|key|next_key)/kernel", ("embed", "kv")),
    ("pointer/switches/kernel", ("embed", None)),
    ("pointer/switches/bias", (None,)),
    ("repeated", ("embed",)),
)

# Initially half of the probability is copied, and the continuation of a copy weighs e^2 times as much as the rest.
INIT_GATE_LOGIT, INIT_CONTINUATION_BIAS = 0.0, 2.0


class Pointer(nn.Module):
    """Mixes softmax(logits) with attention over the source: p = g softmax(logits) + (1 - g) copied.

    `copied` gives each token the attention weight of all source positions that hold it, by one head as wide as the
    model; the gate g is a sigmoid of the decoder's features. Copies are mostly spans, so a position is found by the
    token before it, too: by a part of its key that the encoder makes there, and by a second gate, which is added to the
    logits of the positions that follow the token just written (the "selective read" of Gu et al., 2016, made simple).
    """

    width: int
    dtype: str
    param_dtype: str

    def setup(self) -> None:
        dtypes: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        dense = functools.partial(Dense, self.width, use_bias=False, **dtypes)
        self.query, self.key, self.next_key = dense(), dense(), dense()
        bias = lambda key, shape, dtype: jnp.array([INIT_GATE_LOGIT, INIT_CONTINUATION_BIAS], dtype)
        self.switches = Dense(2, kernel_init=nn.initializers.zeros, bias_init=bias, **dtypes)

    def read(
        self,
        encoded: Float[Array, "batch source embed"],
        tokens: Int[AnyArray, "batch source"],
        segments: Int[AnyArray, "batch source"],
    ) -> Source:
        """The keys of a source with `tokens` [batch, source], for `__call__`: computed once for all steps of decoding.

        `before` is the token before each position, -1 where an example begins; `keys` are [batch, source, width].
        """
        here, of_next = self.key(encoded), self.next_key(encoded)
        inside = jnp.pad(segments[:, 1:] == segments[:, :-1], ((0, 0), (1, 0)))
        keys = here + jnp.where(inside[..., None], jnp.roll(of_next, 1, axis=1), 0)
        before = jnp.where(inside, jnp.roll(tokens, 1, axis=1), -1)
        return {"tokens": tokens, "before": before, "keys": constrain(keys, ("batch", "length", "kv"))}

    def __call__(
        self,
        logits: Float[Array, "batch length vocab"],
        x: Float[Array, "batch length embed"],
        written: Int[AnyArray, "batch length"],
        source: Source,
        mask: Bool[AnyArray, " batch #length source"],
    ) -> Float[Array, "batch length vocab"]:
        """Log-probabilities [batch, length, vocab], in the dtype of the `logits`, for features `x` of the decoder.

        `written` [batch, length] is the token before each that is to come; the `mask` [batch, length or 1, source] is
        true for positions that may be copied. All are finite: what is not in the source is not divided by nor logged.
        """
        dtype = logits.dtype
        gate, follow = jnp.moveaxis(self.switches(x).astype(dtype), -1, 0)
        query = token_axes(self.query(x) * jnp.asarray(self.width**-0.5, self.dtype))
        scores = jnp.einsum("btd,bsd->bts", query, source["keys"], preferred_element_type=dtype)
        scores += follow[..., None] * (written[..., None] == source["before"][:, None])
        weights = jax.nn.softmax(jnp.where(mask, scores, jnp.finfo(dtype).min))
        copied = scatter_add(constrain(weights, ("batch", "length", None)), source["tokens"], logits.shape[-1])
        named = jax.nn.log_softmax(logits) + jax.nn.log_sigmoid(gate)[..., None]
        least = jnp.finfo(dtype).tiny
        both = jnp.logaddexp(named, jnp.log(jnp.maximum(copied, least)) + jax.nn.log_sigmoid(-gate)[..., None])
        return constrain(jnp.where(copied > least, both, named), ("batch", "length", "vocab"))


def repeated(
    tokens: Int[AnyArray, "batch source"], segments: Int[AnyArray, "batch source"]
) -> Bool[AnyArray, "batch source"]:
    """Whether each of `tokens` [batch, source] occurs at another position of its example, too: bool [batch, source].

    The words of a question tell where its answer is, whatever they mean (the exact match of Chen et al., "Reading
    Wikipedia to Answer Open-Domain Questions", 2017).
    """
    both = (tokens[:, :, None] == tokens[:, None]) & (segments[:, :, None] == segments[:, None])
    return both.sum(-1) > 1


def scatter_add(
    weights: Float[AnyArray, "batch length source"], tokens: Int[AnyArray, "batch source"], vocab_size: int
) -> Float[Array, "batch length vocab"]:
    """A scatter-add of `weights` [batch, length, source] by `tokens` [batch, source].

    [batch, length, vocab]. A product with one-hot tokens, which may be split over any axis; on a single CPU, where that
    took a hundred times as long, a scatter-add.
    """
    if _on_one_cpu():
        empty = jnp.zeros((weights.shape[1], vocab_size), weights.dtype)
        return jax.vmap(lambda tokens, weights: empty.at[:, tokens].add(weights))(tokens, weights)
    chosen = constrain(jax.nn.one_hot(tokens, vocab_size, dtype=weights.dtype), ("batch", None, "vocab"))
    copied = jnp.einsum("bts,bsv->btv", weights, chosen, precision=jax.lax.Precision.HIGHEST)
    return constrain(copied, ("batch", "length", "vocab"))


def _on_one_cpu() -> bool:
    mesh: Any = traced_mesh()
    return platform() == "cpu" and (mesh is None or mesh.size == 1)
