"""A pointer-generator, which copies tokens from the source (See et al., "Get To The Point", 2017; Gu et al., 2016).

A small model that is trained from scratch cannot generate a rare token of its source, but it can learn to attend to it
and copy it.
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

# Initially half of the probability is copied, and the token after a copied one has e^2 times the weight of others.
INIT_GATE_LOGIT, INIT_CONTINUATION_BIAS = 0.0, 2.0


class Pointer(nn.Module):
    """Mixes softmax(logits) with attention over the source: p = g softmax(logits) + (1 - g) copied.

    `copied` is the attention over the source, of one head as wide as the model, summed over positions with the same
    token; the gate g is a sigmoid of the decoder's features. Since copies are mostly spans, a position is also found by
    the token before it: part of its key is computed from the encoder's features there, and a second gate is added to
    the logits of positions after the token just generated (a simple form of the "selective read" of Gu et al., 2016).
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
        """Precomputes the source for `__call__`, once for all decoding steps.

        Returns `tokens` [batch, source], `before`, the token before each position (-1 at the begin of an example), and
        `keys` [batch, source, width].
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

        `written` [batch, length] is the decoder's input, the token before each predicted one; the `mask` [batch, length
        or 1, source] is true for positions that may be copied. Values and gradients are finite also for tokens that are
        not in the source.
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

    Words of a question that recur in the context indicate where its answer is (the exact match feature of Chen et al.,
    "Reading Wikipedia to Answer Open-Domain Questions", 2017).
    """
    both = (tokens[:, :, None] == tokens[:, None]) & (segments[:, :, None] == segments[:, None])
    return both.sum(-1) > 1


def scatter_add(
    weights: Float[AnyArray, "batch length source"], tokens: Int[AnyArray, "batch source"], vocab_size: int
) -> Float[Array, "batch length vocab"]:
    """A scatter-add of `weights` [batch, length, source] by `tokens` [batch, source].

    Returns [batch, length, vocab]. It is a product with one-hot tokens, which can be sharded over any axis; on a single
    CPU, where that takes a hundred times as long, a scatter-add.
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
