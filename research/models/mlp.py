"""MLPs of transformers, plain and gated."""

from collections.abc import Callable
from typing import Any

import jax
from flax import linen as nn
from jaxtyping import Array, Float

from research.models.attention import Context
from research.models.layers import GELU, tokens
from research.models.remat import operand
from research.models.shapes import Size

ACTIVATIONS: dict[str, Callable] = {
    "relu": nn.relu,
    "gelu_exact": GELU["exact"],
    "gelu_tanh": GELU["tanh"],
    "gelu_quick": GELU["quick"],
    "silu": nn.silu,
}

LOGICAL_AXES = (
    ("mlp/(up|gate)/kernel", ("layers", "embed", "mlp")),
    ("mlp/(up|gate)/bias", ("layers", "mlp")),
    ("mlp/down/kernel", ("layers", "mlp", "embed")),
    ("mlp/down/bias", ("layers", "embed")),
)


class MLP(nn.Module):
    """Two dense layers with an activation between them.

    dense        a constructor of dense layers, as dense.Dense with its initialisers and dtypes
    activation   a name of ACTIVATIONS
    bias         whether the layers have a bias
    dropout      dropout rate of the hidden features
    """

    mlp_dim: int
    dense: Callable[..., nn.Module]
    activation: str
    bias: bool = True
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: Float[Array, "batch *axes embed"], context: Context) -> Float[Array, "batch *axes embed"]:
        width = x.shape[-1]
        hidden = self._hidden(x)
        hidden = tokens(nn.Dropout(self.dropout, deterministic=not context.train)(hidden), "mlp")
        return tokens(self.dense(width, use_bias=self.bias, name="down")(operand(hidden)))

    def init_cache(self, context: Context, batch: Size, beams: int, length: int, dtype: Any) -> None:
        """No cache: an MLP acts on each token alone."""

    def step(
        self, x: Float[Array, "batch beams embed"], cache: None, context: Context
    ) -> tuple[Float[Array, "batch beams embed"], None, None]:
        """`__call__`, in the interface of token mixers."""
        return self(x, context), None, None

    def _hidden(self, x: jax.Array) -> jax.Array:
        return self._activate(self._dense(x, "up"))

    def _dense(self, x: jax.Array, name: str) -> jax.Array:
        return operand(self.dense(self.mlp_dim, use_bias=self.bias, name=name)(x))

    def _activate(self, x: jax.Array) -> jax.Array:
        return ACTIVATIONS[self.activation](x)


class GatedMLP(MLP):
    """A gated MLP: hidden features are multiplied by the activation of a third layer (Shazeer, 2020)."""

    def _hidden(self, x: jax.Array) -> jax.Array:
        return self._activate(self._dense(x, "gate")) * self._dense(x, "up")
