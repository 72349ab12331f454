"""The layers of encoders and decoders: attention over packed or cached tokens, MLPs, and a block of them."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from research.models import layers
from research.parallel.sharding import constrain
from research.spec import Spec, checks, field

ACTIVATIONS: dict[str, Callable] = {
    "relu": nn.relu,
    "gelu_exact": layers.GELU["exact"],
    "gelu_tanh": layers.GELU["tanh"],
}

TOKENS = ("batch", "length", "embed")
HEADS = ("batch", "length", "heads", "kv")
# Of the keys and values of a layer while decoding, the leading axes: as `layers.cached_attention` wants the others.
CACHE = ("batch", "heads")

Pair = tuple[jax.Array, jax.Array]  # keys and values

_fan_in = functools.partial(nn.initializers.variance_scaling, 1.0, "fan_in", "truncated_normal")


class LayerSpec(Spec):
    """What all layers of a model have in common."""

    width: int = field(default=512, check=checks.at_least(1), doc="features of a token")
    num_heads: int = field(default=6, check=checks.at_least(1), doc="heads of every attention")
    kv_dim: int = field(default=64, check=checks.at_least(1), doc="features of a query, key or value of one head")
    mlp_dim: int = field(default=1024, check=checks.at_least(1), doc="hidden features of an MLP")
    norm: str = field(default="rms", check=checks.one_of(*layers.NORMS), doc="the kind of norm")
    norm_epsilon: float = field(
        default=1e-6, check=checks.above(0) & checks.at_most(1), doc="added to the variance in a norm"
    )
    norm_position: str = field(
        default="pre", check=checks.one_of("pre", "post"),
        doc="of norms around a layer; pre has one more norm at the end of each stack",
    )  # fmt: skip
    activation: str = field(default="gelu_tanh", check=checks.one_of(*ACTIVATIONS), doc="of an MLP")
    gated: bool = field(default=True, doc="MLPs multiply their hidden features by a second product (Shazeer, 2020)")
    bias: bool = field(default=False, doc="attention and MLPs have biases")
    key_bias: bool = field(default=True, doc="keys have one too, where there are biases at all")
    attention_scale: bool = field(default=False, doc="divide the logits of attention by sqrt(kv_dim)")
    dropout: float = field(default=0.0, check=checks.from_up_to(0, 1), doc="probability, in training")


@dataclasses.dataclass(frozen=True)
class Settings:
    """A spec and the dtypes that it is computed in."""

    spec: LayerSpec
    dtype: str
    param_dtype: str

    @property
    def dtypes(self) -> dict[str, str]:
        """The dtypes of a layer, as flax names them."""
        return {"dtype": self.dtype, "param_dtype": self.param_dtype}

    @property
    def scale(self) -> float | None:
        """What attention multiplies its logits by; None is 1 / sqrt(kv_dim)."""
        return None if self.spec.attention_scale else 1.0

    def make_norm(self) -> nn.Module:
        """A fresh norm over the features."""
        return layers.NORMS[self.spec.norm](epsilon=self.spec.norm_epsilon, **self.dtypes)


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
        settings, spec = self.settings, self.settings.spec
        heads = (spec.num_heads, spec.kv_dim)
        # Where nothing divides the logits, a smaller query does at first (Raffel et al., 2020).
        query, key, value = (
            (spec.bias, 1.0 if spec.attention_scale else spec.kv_dim**-0.5),
            (spec.bias and spec.key_bias, 1.0),
            (spec.bias, 1.0),
        )
        project = lambda *parts: Projections(
            heads, tuple(bias for bias, _ in parts), settings.dtypes, tuple(scale for _, scale in parts)
        )
        if self.cross:
            self.query, self.key_value = project(query), project(key, value)
        else:
            self.query_key_value = project(query, key, value)
        self.out = nn.DenseGeneral(
            spec.width, axis=(-2, -1), use_bias=spec.bias, kernel_init=_fan_in(), **settings.dtypes
        )

    def __call__(
        self, x: jax.Array, bias: jax.Array | None, mask: jax.Array, encoded: jax.Array | None = None
    ) -> jax.Array:
        parts = [*self.query(x), *self.key_value(encoded)] if self.cross else self.query_key_value(x)
        query, key, value = (layers.operand(constrain(part, HEADS)) for part in parts)
        x = layers.attention(query, key, value, bias=bias, mask=mask, scale=self.settings.scale)
        return constrain(self.out(layers.operand(constrain(x, HEADS))), TOKENS)

    def keys_values(self, encoded: jax.Array) -> Pair:
        """What cross attention reads at every step: [batch, heads, kv, length] and [batch, heads, length, kv]."""
        key, value = self.key_value(encoded)
        return constrain_cache(key.transpose(0, 2, 3, 1)), constrain_cache(value.swapaxes(1, 2))

    def cross_step(self, x: jax.Array, cache: Pair, mask: jax.Array) -> jax.Array:
        """`__call__` for the next tokens [batch, beams, width] of the beams of each example."""
        (query,) = self.query(x)
        return self.out(layers.cached_attention(query, *cache, None, mask, self.settings.scale))

    def step(
        self, x: jax.Array, cache: Pair, position: jax.Array, bias: jax.Array | None, mask: jax.Array
    ) -> tuple[jax.Array, tuple[Pair, Pair]]:
        """`__call__` for the next tokens [batch, beams, width]; their keys and values, and the cache with them written.

        `cache` holds those of the tokens before. The beams of an example are looked at as one sequence of beams *
        length tokens, of which the `mask` [batch, 1, beams, beams * length] shows each beam its own, wherever they were
        written.
        """
        query, key, value = self.query_key_value(x)
        new = key.transpose(0, 2, 3, 1), value.swapaxes(1, 2)
        keys, values = written = write(cache, new, position)
        keys, values = keys.reshape(*keys.shape[:3], -1), values.reshape(*values.shape[:2], -1, values.shape[-1])
        return self.out(layers.cached_attention(query, keys, values, bias, mask, self.settings.scale)), (new, written)


def write(cache: Pair, new: Pair, position: jax.Array) -> Pair:
    """The keys and values of a cache with those of `new` tokens at `position`.

    Keys are [..., batch, heads, kv, beams, length] and values [..., batch, heads, beams, length, kv], new ones have no
    length, and the axes before are whatever both have. `position` is [1, 1] where all rows are at the same one, else
    [batch, beams].
    """

    def put(old, new, axis):
        new = jnp.expand_dims(new.astype(old.dtype), axis)
        if position.size == 1:  # done in place
            return jax.lax.dynamic_update_slice_in_dim(old, new, position[0, 0], axis)
        here = jnp.arange(old.shape[axis]) == position[..., None]  # [batch, beams, length]
        here = here[:, None, None] if axis == -1 else here[:, None, ..., None]
        return jnp.where(here, new, old)

    (keys, values), (key, value) = cache, new
    return put(keys, key, axis=-1), put(values, value, axis=-2)


def constrain_cache(x: jax.Array, leading: int = 0) -> jax.Array:
    """Keys or values [layers, batch, heads, ...] where the example and the head is; `leading` axes come before them."""
    names = (None,) * leading + CACHE
    return constrain(x, names + (None,) * (x.ndim - len(names)))


class MLP(nn.Module):
    """Two dense layers with an activation between them, which a third one gates if `gated` (Shazeer, 2020)."""

    settings: Settings

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        settings, spec = self.settings, self.settings.spec
        biases = (spec.bias,) * (2 if spec.gated else 1)
        hidden, *gate = map(layers.operand, Projections((spec.mlp_dim,), biases, settings.dtypes, name="up")(x))
        hidden = ACTIVATIONS[spec.activation](hidden)
        hidden = hidden * gate[0] if gate else hidden
        hidden = nn.Dropout(spec.dropout, deterministic=not train)(hidden)
        hidden = layers.operand(constrain(hidden, ("batch", "length", "mlp")))
        down = nn.Dense(spec.width, use_bias=spec.bias, kernel_init=_fan_in(), name="down", **settings.dtypes)
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
        self.dropout = nn.Dropout(self.settings.spec.dropout)

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
    ) -> tuple[jax.Array, tuple[Pair, Pair]]:
        """`__call__` of a decoder for the next tokens [batch, beams, width]; see `Attention.step`."""
        branch, cache = self.attention.step(self._before(x, self.attention_norm), own, position, bias, mask)
        x = self._after(x, branch, self.attention_norm)
        branch = self.cross_attention.cross_step(self._before(x, self.cross_norm), cross, cross_mask)
        x = self._after(x, branch, self.cross_norm)
        branch = self.mlp(self._before(x, self.mlp_norm), False)
        return self._after(x, branch, self.mlp_norm), cache

    def keys_values(self, encoded: jax.Array) -> tuple[jax.Array, Pair]:
        """`encoded` again, for a scan over layers, and what cross attention makes of it."""
        return encoded, self.cross_attention.keys_values(encoded)

    def _before(self, x: jax.Array, norm: Callable) -> jax.Array:
        return layers.operand(constrain(norm(x), TOKENS)) if self.settings.spec.norm_position == "pre" else x

    def _after(self, x: jax.Array, branch: jax.Array, norm: Callable, train: bool = False) -> jax.Array:
        x = layers.operand(x + constrain(self.dropout(branch, deterministic=not train), TOKENS))
        return x if self.settings.spec.norm_position == "pre" else layers.operand(constrain(norm(x), TOKENS))
