"""Transformer blocks: residual branches (mixers and MLPs), and the placement of norms around them.

A part is a mixer, see attention.py, or an MLP, see mlp.py. It is called with tokens and a `Context`.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from research.models.attention import Context
from research.models.layers import StochasticDepth, tokens
from research.models.remat import operand
from research.models.shapes import Size

Caches = dict[str, Any]  # by part; those without a cache have None
Branch = Callable[[str, jax.Array], jax.Array]
Add = Callable[[jax.Array, jax.Array], jax.Array]

# Every norm of a block: what the tables of the parts do not name.
LOGICAL_AXES = (("[a-z_]*norm/(scale|bias)", ("layers", "embed")),)


class Block(nn.Module):
    """The base of all residual topologies, which choose the norms and their placement.

    parts       (name, constructor), in order
    make_norm   a constructor of norms over the features
    dropout     of branches
    """

    parts: Sequence[tuple[str, Callable[[], nn.Module]]]
    make_norm: Callable[[], nn.Module]
    dropout: float = 0.0

    def setup(self) -> None:
        for name, make in self.parts:
            setattr(self, name, make())
        for name in self.norms():
            setattr(self, name, self.make_norm())
        self.drop, self.drop_branch = nn.Dropout(self.dropout), StochasticDepth()

    def __call__(
        self,
        x: Float[Array, "batch *axes embed"],
        context: Context,
        drop_rate: Float[Array, ""] | None = None,
    ) -> Float[Array, "batch *axes embed"]:
        """Tokens [batch, ..., length, width] to such; `drop_rate` is that of stochastic depth."""

        def add(x, branch):
            branch = self.drop(branch, deterministic=not context.train)
            branch = branch if drop_rate is None else self.drop_branch(branch, drop_rate, context.train)
            return operand(x + tokens(branch))

        return self.join(tokens(x), lambda name, x: getattr(self, name)(x, context), add)

    def init_cache(self, context: Context, batch: Size, beams: int, length: int, dtype: Any) -> Caches:
        """The caches of `step`, by part."""
        return {name: getattr(self, name).init_cache(context, batch, beams, length, dtype) for name in self.names}

    def step(
        self, x: Float[Array, "batch beams embed"], caches: Caches, context: Context
    ) -> tuple[Float[Array, "batch beams embed"], Caches, Caches]:
        """`__call__` for the next tokens [batch, beams, width]; their additions to the caches; the updated caches."""
        new, written = {}, {}

        def branch(name, x):
            x, new[name], written[name] = getattr(self, name).step(x, caches[name], context)
            return x

        x = self.join(x, branch, lambda x, branch: x + branch)
        return x, new, written

    @property
    def names(self) -> list[str]:
        """Of the parts."""
        return [name for name, _ in self.parts]

    def norms(self) -> list[str]:
        """The names of the norms."""
        return [f"{name}_norm" for name in self.names]

    def join(self, x: Float[Array, "*axes embed"], branch: Branch, add: Add) -> Float[Array, "*axes embed"]:
        """Tokens with what each part makes of them, by `branch(name, tokens)` and `add(tokens, branch)`."""
        raise NotImplementedError

    def normed(self, name: str, x: jax.Array) -> jax.Array:
        """Tokens, normed."""
        return operand(tokens(getattr(self, name)(x)))


class PreNorm(Block):
    """A norm before each part (Xiong et al., 2020); a stack of these has one more at its end."""

    def join(self, x: Float[Array, "*axes embed"], branch: Branch, add: Add) -> Float[Array, "*axes embed"]:
        """See `Block`."""
        for name in self.names:
            x = add(x, branch(name, self.normed(f"{name}_norm", x)))
        return x


class PostNorm(Block):
    """A norm after each sum (Vaswani et al., 2017)."""

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
    """All parts of the same normed tokens (Wang and Komatsuzaki, 2021; Dehghani et al., 2023)."""

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
