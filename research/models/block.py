"""Transformer blocks: residual branches (mixers and MLPs), and the placement of norms around them.

A part is a token mixer (attention.py) or an MLP (mlp.py). It is called with tokens and a `Context`.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from research.models.attention import Context
from research.models.dense import rows_of
from research.models.layers import StochasticDepth, tokens
from research.models.remat import operand
from research.models.shapes import Size

Caches = dict[str, Any]  # by part; those without a cache have None
Branch = Callable[[str, jax.Array], jax.Array]
Add = Callable[[jax.Array, jax.Array], jax.Array]

# The norms and layer scales of a block, which are not in the tables of its parts.
LOGICAL_AXES = (("[a-z_]*(norm/(scale|bias)|layer_scale/scale)", ("layers", "embed")),)


class LayerScale(nn.Module):
    """Multiplies each feature by a trained factor, `initial` at the start (Touvron et al., 2021, "Going deeper")."""

    initial: float
    param_dtype: Any = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "*axes embed"]) -> Float[Array, "*axes embed"]:
        scale = self.param("scale", nn.initializers.constant(self.initial), x.shape[-1:], self.param_dtype)
        return x * rows_of(scale.astype(x.dtype), x.shape)


class Block(nn.Module):
    """Base class of the residual topologies, which define the norms and their placement.

    parts        (name, constructor), in order
    make_norm    a constructor of norms over the features
    dropout      dropout rate of branches
    make_scale   a constructor of the layer scale of each branch; None: none
    """

    parts: Sequence[tuple[str, Callable[[], nn.Module]]]
    make_norm: Callable[[], nn.Module]
    dropout: float = 0.0
    make_scale: Callable[[], nn.Module] | None = None

    def setup(self) -> None:
        for name, make in self.parts:
            setattr(self, name, make())
        for name in self.norms():
            setattr(self, name, self.make_norm())
        if self.make_scale:
            for name in self.names:
                setattr(self, f"{name}_layer_scale", self.make_scale())
        self.drop, self.drop_branch = nn.Dropout(self.dropout), StochasticDepth()

    def __call__(
        self,
        x: Float[Array, "batch *axes embed"],
        context: Context,
        drop_rate: Float[Array, ""] | None = None,
    ) -> Float[Array, "batch *axes embed"]:
        """Maps tokens [batch, ..., length, width] to tokens; `drop_rate` is the rate of stochastic depth."""

        def add(x, branch):
            branch = self.drop(branch, deterministic=not context.train)
            branch = branch if drop_rate is None else self.drop_branch(branch, drop_rate, context.train)
            return operand(x + tokens(branch))

        return self.join(tokens(x), lambda name, x: self._scaled(name, getattr(self, name)(x, context)), add)

    def init_cache(self, context: Context, batch: Size, beams: int, length: int, dtype: Any) -> Caches:
        """The caches of `step`, by part."""
        return {name: getattr(self, name).init_cache(context, batch, beams, length, dtype) for name in self.names}

    def step(
        self, x: Float[Array, "batch beams embed"], caches: Caches, context: Context
    ) -> tuple[Float[Array, "batch beams embed"], Caches, Caches]:
        """`__call__` for the next tokens [batch, beams, width]; also their keys and values, and the updated caches."""
        new, written = {}, {}

        def branch(name, x):
            x, new[name], written[name] = getattr(self, name).step(x, caches[name], context)
            return self._scaled(name, x)

        x = self.join(x, branch, lambda x, branch: x + branch)
        return x, new, written

    @property
    def names(self) -> list[str]:
        """The names of the parts."""
        return [name for name, _ in self.parts]

    def norms(self) -> list[str]:
        """The names of the norms."""
        return [f"{name}_norm" for name in self.names]

    def join(self, x: Float[Array, "*axes embed"], branch: Branch, add: Add) -> Float[Array, "*axes embed"]:
        """Applies all parts to tokens, by `branch(name, tokens)` and the residual `add(tokens, branch)`."""
        raise NotImplementedError

    def normed(self, name: str, x: jax.Array) -> jax.Array:
        """The tokens `x` after the norm `name`."""
        return operand(tokens(getattr(self, name)(x)))

    def _scaled(self, name: str, branch: jax.Array) -> jax.Array:
        return getattr(self, f"{name}_layer_scale")(branch) if self.make_scale else branch


class PreNorm(Block):
    """A norm before each part (Xiong et al., 2020); a stack of these blocks has a final norm."""

    def join(self, x: Float[Array, "*axes embed"], branch: Branch, add: Add) -> Float[Array, "*axes embed"]:
        """See `Block`."""
        for name in self.names:
            x = add(x, branch(name, self.normed(f"{name}_norm", x)))
        return x


class PostNorm(Block):
    """A norm after each residual sum (Vaswani et al., 2017)."""

    def join(self, x: Float[Array, "*axes embed"], branch: Branch, add: Add) -> Float[Array, "*axes embed"]:
        """See `Block`."""
        for name in self.names:
            x = self.normed(f"{name}_norm", add(x, branch(name, x)))
        return x


class Sandwich(Block):
    """A norm before each part, and another on its output (Ding et al., 2021)."""

    def norms(self) -> list[str]:
        """See `Block`."""
        return [*super().norms(), *(f"{name}_last_norm" for name in self.names)]

    def join(self, x: Float[Array, "*axes embed"], branch: Branch, add: Add) -> Float[Array, "*axes embed"]:
        """See `Block`."""
        for name in self.names:
            x = add(x, self.normed(f"{name}_last_norm", branch(name, self.normed(f"{name}_norm", x))))
        return x


class Parallel(Block):
    """All parts in parallel on the same normed tokens (Wang and Komatsuzaki, 2021; Dehghani et al., 2023)."""

    def norms(self) -> list[str]:
        """See `Block`."""
        return ["norm"]

    def join(self, x: Float[Array, "*axes embed"], branch: Branch, add: Add) -> Float[Array, "*axes embed"]:
        """See `Block`."""
        normed = self.normed("norm", x)
        return add(x, functools.reduce(jnp.add, [branch(name, normed) for name in self.names]))


TOPOLOGIES: dict[str, type[Block]] = {
    "pre": PreNorm, "post": PostNorm, "sandwich": Sandwich, "parallel": Parallel,
}  # fmt: skip
