"""The layers of encoders and decoders: attention over packed or cached tokens, MLPs, and the block that adds them up."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from research.models import layers
from research.parallel.sharding import constrain

ACTIVATIONS: dict[str, Callable] = {
    "relu": nn.relu,
    "gelu_exact": layers.GELU["exact"],
    "gelu_tanh": layers.GELU["tanh"],
}

TOKENS = ("batch", "length", "embed")
HEADS = ("batch", "length", "heads", "kv")
# While decoding, keys and values of a layer: [batch, heads, beams, length, kv] and, of the source, without the beams.
OWN = ("batch", "heads", None, None, "kv")
CROSS = ("batch", "heads", None, "kv")

Pair = tuple[jax.Array, jax.Array]  # keys and values

_fan_in = functools.partial(nn.initializers.variance_scaling, 1.0, "fan_in", "truncated_normal")


@dataclasses.dataclass(frozen=True)
class Settings:
    """What all layers of a model have in common; see `seq2seq.Seq2Seq` for the choices."""

    width: int
    num_heads: int
    kv_dim: int
    mlp_dim: int
    norm: str
    norm_epsilon: float
    norm_position: str
    activation: str
    gated: bool
    bias: bool
    key_bias: bool
    attention_scale: bool
    dropout: float
    dtype: str
    param_dtype: str

    @property
    def dtypes(self) -> dict[str, str]:
        """The dtypes of a layer, as flax names them."""
        return {"dtype": self.dtype, "param_dtype": self.param_dtype}

    @property
    def scale(self) -> float | None:
        """What attention multiplies its logits by; None is 1 / sqrt(kv_dim)."""
        return None if self.attention_scale else 1.0

    def make_norm(self) -> nn.Module:
        """A fresh norm over the features."""
        return layers.NORMS[self.norm](epsilon=self.norm_epsilon, **self.dtypes)


class Projections(nn.Module):
    """Several dense layers of one input as one product: [..., inputs] to one array [..., *features] a layer.

    `biases` says which of the layers have a bias, and `scales` what their first kernels are multiplied by.
    """

    features: tuple[int, ...]
    biases: tuple[bool, ...]
    dtypes: dict[str, Any]
    scales: tuple[float, ...] | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> list[jax.Array]:
        dtype, param_dtype = self.dtypes["dtype"], self.dtypes["param_dtype"]
        rank = len(self.features)
        kernel = self.param("kernel", self._init, (x.shape[-1], len(self.biases), *self.features), param_dtype)
        y = jnp.moveaxis(jnp.tensordot(x.astype(dtype), kernel.astype(dtype), 1), -rank - 1, 0)
        outputs = list(y)
        if any(self.biases):
            bias = self.param("bias", nn.initializers.zeros, (sum(self.biases), *self.features), param_dtype)
            rows = iter(bias.astype(dtype))
            outputs = [part + next(rows) if biased else part for part, biased in zip(y, self.biases, strict=True)]
        return outputs

    def _init(self, key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        scales = jnp.asarray(self.scales or [1.0] * shape[1], dtype).reshape(-1, *[1] * len(self.features))
        return scales * _fan_in(in_axis=0, out_axis=tuple(range(2, len(shape))), batch_axis=1)(key, shape, dtype)


class Attention(nn.Module):
    """Attention of tokens [batch, length, width] over themselves or, with `cross`, over what an encoder made."""

    settings: Settings
    cross: bool = False

    def setup(self) -> None:
        settings = self.settings
        heads = (settings.num_heads, settings.kv_dim)
        # Where nothing divides the logits, a smaller query does at first (Raffel et al., 2020).
        query, key, value = (
            (settings.bias, 1.0 if settings.attention_scale else settings.kv_dim**-0.5),
            (settings.bias and settings.key_bias, 1.0),
            (settings.bias, 1.0),
        )
        project = lambda *parts: Projections(
            heads, tuple(bias for bias, _ in parts), settings.dtypes, tuple(scale for _, scale in parts)
        )
        if self.cross:
            self.query, self.key_value = project(query), project(key, value)
        else:
            self.query_key_value = project(query, key, value)
        self.out = nn.DenseGeneral(
            settings.width, axis=(-2, -1), use_bias=settings.bias, kernel_init=_fan_in(), **settings.dtypes
        )

    def __call__(
        self, x: jax.Array, bias: jax.Array | None, mask: jax.Array, encoded: jax.Array | None = None
    ) -> jax.Array:
        parts = [*self.query(x), *self.key_value(encoded)] if self.cross else self.query_key_value(x)
        query, key, value = (constrain(part, HEADS) for part in parts)
        x = layers.attention(query, key, value, bias=bias, mask=mask, scale=self.settings.scale)
        return constrain(self.out(constrain(x, HEADS)), TOKENS)

    def keys_values(self, encoded: jax.Array) -> Pair:
        """What cross attention reads at every step of a decoding: two [batch, heads, length, kv]."""
        key, value = (constrain(part.swapaxes(1, 2), CROSS) for part in self.key_value(encoded))
        return key, value

    def cross_step(self, x: jax.Array, cache: Pair, mask: jax.Array) -> jax.Array:
        """`__call__` for the next tokens [batch, beams, width] of the beams of each example."""
        (query,) = self.query(x)
        return self.out(layers.cached_attention(query, *cache, None, mask, self.settings.scale))

    def step(
        self, x: jax.Array, cache: Pair, position: jax.Array, bias: jax.Array | None, mask: jax.Array
    ) -> tuple[jax.Array, Pair]:
        """`__call__` for the next tokens [batch, beams, width], and their own keys and values [batch, heads, beams, kv].

        `cache` holds those of the tokens before, [batch, heads, beams, length, kv]. The beams of an example are looked
        at as one sequence of beams * length tokens, of which the `mask` [batch, 1, beams, beams * length] shows each
        beam its own, wherever they were written.
        """
        query, *new = self.query_key_value(x)
        new = tuple(part.swapaxes(1, 2) for part in new)
        joined = (write(old, one, position) for old, one in zip(cache, new, strict=True))
        keys, values = (part.reshape(*part.shape[:2], -1, part.shape[-1]) for part in joined)
        return self.out(layers.cached_attention(query, keys, values, bias, mask, self.settings.scale)), new


def write(cache: jax.Array, new: jax.Array, position: jax.Array) -> jax.Array:
    """`cache` [..., batch, heads, beams, length, kv] with `new` [..., batch, heads, beams, kv] at `position`.

    `position` is [1, 1] where all rows are at the same one, else [batch, beams].
    """
    new = constrain_own(new[..., None, :].astype(cache.dtype))
    if position.size == 1:  # done in place
        return jax.lax.dynamic_update_slice_in_dim(cache, new, position[0, 0], axis=-2)
    here = jnp.arange(cache.shape[-2]) == position[:, None, :, None]
    return jnp.where(here[..., None], new, cache)


def constrain_own(x: jax.Array) -> jax.Array:
    """Keys or values [..., batch, heads, beams, length, kv], each where its example and its head is."""
    return constrain(x, (None,) * (x.ndim - len(OWN)) + OWN)


class MLP(nn.Module):
    """Two dense layers with an activation between them, which a third one gates if `gated` (Shazeer, 2020)."""

    settings: Settings

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        settings = self.settings
        biases = (settings.bias,) * (2 if settings.gated else 1)
        hidden, *gate = Projections((settings.mlp_dim,), biases, settings.dtypes, name="up")(x)
        hidden = ACTIVATIONS[settings.activation](hidden)
        hidden = hidden * gate[0] if gate else hidden
        hidden = nn.Dropout(settings.dropout, deterministic=not train)(hidden)
        hidden = constrain(hidden, ("batch", "length", "mlp"))
        down = nn.Dense(settings.width, use_bias=settings.bias, kernel_init=_fan_in(), name="down", **settings.dtypes)
        return constrain(down(hidden), TOKENS)


class Block(nn.Module):
    """Self-attention, in a decoder cross attention, and an MLP; each is added to what it was given.

    Norms come before each of the three (`norm_position` "pre") or after each sum ("post", Vaswani et al., 2017).
    """

    settings: Settings
    cross: bool

    def setup(self) -> None:
        self.attention = Attention(self.settings)
        self.attention_norm = self.settings.make_norm()
        if self.cross:
            self.cross_attention = Attention(self.settings, cross=True)
            self.cross_norm = self.settings.make_norm()
        self.mlp = MLP(self.settings)
        self.mlp_norm = self.settings.make_norm()
        self.dropout = nn.Dropout(self.settings.dropout)

    def __call__(
        self,
        x: jax.Array,
        bias: jax.Array | None,
        mask: jax.Array,
        encoded: jax.Array | None,
        cross_mask: jax.Array | None,
        train: bool,
    ) -> tuple[jax.Array, None]:
        x = constrain(x, TOKENS)
        branch = self.attention(self._before(x, self.attention_norm), bias, mask)
        x = self._after(x, branch, self.attention_norm, train)
        if self.cross:
            branch = self.cross_attention(self._before(x, self.cross_norm), None, cross_mask, encoded)
            x = self._after(x, branch, self.cross_norm, train)
        branch = self.mlp(self._before(x, self.mlp_norm), train)
        return self._after(x, branch, self.mlp_norm, train), None

    def step(
        self,
        x: jax.Array,
        own: Pair,
        cross: Pair,
        position: jax.Array,
        bias: jax.Array | None,
        mask: jax.Array,
        cross_mask: jax.Array,
    ) -> tuple[jax.Array, Pair]:
        """`__call__` of a decoder for the next tokens [batch, beams, width]; see `Attention.step`."""
        branch, new = self.attention.step(self._before(x, self.attention_norm), own, position, bias, mask)
        x = self._after(x, branch, self.attention_norm)
        branch = self.cross_attention.cross_step(self._before(x, self.cross_norm), cross, cross_mask)
        x = self._after(x, branch, self.cross_norm)
        branch = self.mlp(self._before(x, self.mlp_norm), False)
        return self._after(x, branch, self.mlp_norm), new

    def keys_values(self, encoded: jax.Array) -> tuple[jax.Array, Pair]:
        """`encoded` again, for a scan over layers, and what cross attention makes of it."""
        return encoded, self.cross_attention.keys_values(encoded)

    def _before(self, x: jax.Array, norm: Callable) -> jax.Array:
        return constrain(norm(x), TOKENS) if self.settings.norm_position == "pre" else x

    def _after(self, x: jax.Array, branch: jax.Array, norm: Callable, train: bool = False) -> jax.Array:
        x = x + constrain(self.dropout(branch, deterministic=not train), TOKENS)
        return x if self.settings.norm_position == "pre" else constrain(norm(x), TOKENS)
