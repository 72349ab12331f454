"""Vision transformer (Dosovitskiy et al., 2021), with the options that later work settled on."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from research import config as config_lib
from research.models import layers
from research.parallel.sharding import constrain

# Dosovitskiy et al. 2021 (B, L, H), Touvron et al. 2021 (Ti, S), Zhai et al. 2022 (g), Dehghani et al. 2023 (22B).
SIZES = {
    "Ti": {"width": 192, "depth": 12, "mlp_dim": 768, "num_heads": 3},
    "S": {"width": 384, "depth": 12, "mlp_dim": 1536, "num_heads": 6},
    "B": {"width": 768, "depth": 12, "mlp_dim": 3072, "num_heads": 12},
    "L": {"width": 1024, "depth": 24, "mlp_dim": 4096, "num_heads": 16},
    "H": {"width": 1280, "depth": 32, "mlp_dim": 5120, "num_heads": 16},
    "g": {"width": 1408, "depth": 40, "mlp_dim": 6144, "num_heads": 16},
    "22B": {"width": 6144, "depth": 48, "mlp_dim": 24576, "num_heads": 48},
}

LOGICAL_AXES = (
    ("blocks/attention/(query|key|value)/kernel", ("layers", "embed", "heads", "kv")),
    ("blocks/attention/(query|key|value)/bias", ("layers", "heads", "kv")),
    ("blocks/attention/(query|key)_norm/scale", ("layers", "kv")),
    ("blocks/attention/out/kernel", ("layers", "heads", "kv", "embed")),
    ("blocks/mlp/up/kernel", ("layers", "embed", "mlp")),
    ("blocks/mlp/up/bias", ("layers", "mlp")),
    ("blocks/mlp/down/kernel", ("layers", "mlp", "embed")),
    ("blocks/.*", ("layers", "embed")),
    ("patches/kernel", ("height", "width", None, "embed")),
    ("stem/conv[0-9]+/kernel", ("height", "width", "channels_in", "channels")),
    ("stem/norm[0-9]+/(scale|bias)", ("channels",)),
    ("stem/project/kernel", ("height", "width", None, "embed")),
    ("(positions|cls)", (None, "positions", "embed")),
    ("head/kernel", ("embed", "classes")),
    ("head/bias", ("classes",)),
    ("(patches|stem/project)/bias|norm/(scale|bias)", ("embed",)),
)

TOKENS = ("batch", "length", "embed")


class Attention(nn.Module):
    """Self-attention over tokens [batch, length, embed]; softmax in float32."""

    num_heads: int
    qkv_bias: bool
    key_bias: bool
    qk_norm: bool
    epsilon: float
    dtypes: dict[str, Any]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width = x.shape[-1]
        project = functools.partial(
            nn.DenseGeneral,
            (self.num_heads, width // self.num_heads),
            kernel_init=nn.initializers.xavier_uniform(),
            **self.dtypes,
        )
        query = project(use_bias=self.qkv_bias, name="query")(x)
        key = project(use_bias=self.qkv_bias and self.key_bias, name="key")(x)
        value = project(use_bias=self.qkv_bias, name="value")(x)
        if self.qk_norm:
            norm = functools.partial(layers.layer_norm, epsilon=self.epsilon, use_bias=False, **self.dtypes)
            query, key = norm(name="query_norm")(query), norm(name="key_norm")(key)
        query, key, value = (constrain(part, ("batch", "length", "heads", "kv")) for part in (query, key, value))
        x = constrain(jax.nn.dot_product_attention(query, key, value), ("batch", "length", "heads", "kv"))
        out = nn.DenseGeneral(
            width, axis=(-2, -1), kernel_init=nn.initializers.xavier_uniform(), name="out", **self.dtypes
        )
        return constrain(out(x), TOKENS)


class MLP(nn.Module):
    """Two dense layers with a GELU between them."""

    mlp_dim: int
    gelu: str
    dropout: float
    dtypes: dict[str, Any]

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        dense = functools.partial(
            nn.Dense,
            kernel_init=nn.initializers.xavier_uniform(),
            bias_init=nn.initializers.normal(1e-6),
            **self.dtypes,
        )
        width = x.shape[-1]
        x = layers.GELU[self.gelu](dense(self.mlp_dim, name="up")(x))
        x = constrain(nn.Dropout(self.dropout, deterministic=not train)(x), ("batch", "length", "mlp"))
        return constrain(dense(width, name="down")(x), TOKENS)


class Block(nn.Module):
    """One pre-norm layer; `parallel` adds attention and MLP of the same normed input (Dehghani et al., 2023)."""

    mlp_dim: int
    num_heads: int
    dropout: float
    epsilon: float
    gelu: str
    qkv_bias: bool
    key_bias: bool
    qk_norm: bool
    norm_bias: bool
    parallel: bool
    dtypes: dict[str, Any]

    @nn.compact
    def __call__(self, x: jax.Array, drop_rate: jax.Array, train: bool) -> tuple[jax.Array, None]:
        norm = functools.partial(layers.layer_norm, epsilon=self.epsilon, use_bias=self.norm_bias, **self.dtypes)
        attention = Attention(
            self.num_heads, self.qkv_bias, self.key_bias, self.qk_norm, self.epsilon, self.dtypes, name="attention"
        )
        mlp = MLP(self.mlp_dim, self.gelu, self.dropout, self.dtypes, name="mlp")

        def residual(branch):
            branch = nn.Dropout(self.dropout, deterministic=not train)(branch)
            return constrain(layers.StochasticDepth()(branch, drop_rate, train), TOKENS)

        x = constrain(x, TOKENS)
        y = constrain(norm(name="norm1")(x), TOKENS)
        if self.parallel:
            return x + residual(attention(y) + mlp(y, train)), None
        x = x + residual(attention(y))
        y = constrain(norm(name="norm2")(x), TOKENS)
        return x + residual(mlp(y, train)), None


class ConvStem(nn.Module):
    """Stride-2 3x3 convolutions instead of one large patch (Xiao et al., 2021); layer norm instead of batch norm."""

    width: int
    patch_size: int
    epsilon: float
    dtypes: dict[str, Any]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        halvings = self.patch_size.bit_length() - 1
        if 2**halvings != self.patch_size or not halvings:
            raise ValueError(f"config.model.patch_size={self.patch_size} must be 2, 4, 8, 16 ... for stem='conv'")
        for index in range(halvings):
            features = self.width // 2 ** (halvings - index)
            conv = nn.Conv(features, (3, 3), 2, padding=1, use_bias=False, name=f"conv{index + 1}", **self.dtypes)
            x = nn.relu(layers.layer_norm(epsilon=self.epsilon, name=f"norm{index + 1}", **self.dtypes)(conv(x)))
        return nn.Conv(self.width, (1, 1), name="project", **self.dtypes)(x)


class ViT(nn.Module):
    """Pictures [batch, image_size, image_size, channels] to logits [batch, num_classes] in float32.

    The layers are one scan whose parameters carry a leading axis; `unroll` layers are compiled side by side.
    """

    num_classes: int
    image_size: int = 224
    patch_size: int = 16
    width: int = 768
    depth: int = 12
    mlp_dim: int = 3072
    num_heads: int = 12
    pool: str = "cls"  # or "mean"
    positions: str = "learned"  # or "sincos"
    stem: str = "patch"  # or "conv"
    dropout: float = 0.0
    stochastic_depth: float = 0.0  # of the last layer; it grows linearly from 0
    layer_norm_epsilon: float = 1e-6
    gelu: str = "exact"  # or "tanh"
    qkv_bias: bool = True
    key_bias: bool = True
    qk_norm: bool = False
    norm_bias: bool = True
    parallel: bool = False
    remat: str = "none"
    unroll: int = 1
    dtype: str = "float32"
    param_dtype: str = "float32"
    logical_axes = LOGICAL_AXES

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        self._check(images.shape)
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x = self._tokens(self._patches(images.astype(self.dtype), dtypes))
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        x = self._encode(constrain(x, TOKENS), train, dtypes)
        norm = layers.layer_norm(epsilon=self.layer_norm_epsilon, use_bias=self.norm_bias, name="norm", **dtypes)
        x = constrain(norm(x), TOKENS)
        x = constrain(x[:, 0] if self.pool == "cls" else x.mean(1), ("batch", "embed"))
        logits = nn.Dense(self.num_classes, kernel_init=nn.initializers.zeros, name="head", **dtypes)(x)
        return constrain(logits.astype(jnp.promote_types(logits.dtype, jnp.float32)), ("batch", "classes"))

    def _check(self, shape: tuple[int, ...]) -> None:
        if shape[1:3] != (self.image_size, self.image_size):
            raise ValueError(
                f"config.model.image_size={self.image_size}, but config.data.image_size gives {shape[1]} x {shape[2]}"
            )
        for field, divisor in (("image_size", "patch_size"), ("width", "num_heads")):
            if getattr(self, field) % getattr(self, divisor):
                given, part = getattr(self, field), getattr(self, divisor)
                raise ValueError(f"config.model.{field}={given} must be a multiple of {divisor}={part}")
        for field, known in (
            ("pool", ("cls", "mean")),
            ("positions", ("learned", "sincos")),
            ("stem", ("patch", "conv")),
            ("gelu", layers.GELU),
        ):
            config_lib.choose(dict.fromkeys(known), getattr(self, field), f"model.{field}")

    def _patches(self, images: jax.Array, dtypes: dict[str, Any]) -> jax.Array:
        """[batch, rows, columns, width]."""
        if self.stem == "conv":
            return ConvStem(self.width, self.patch_size, self.layer_norm_epsilon, dtypes, name="stem")(images)
        patch = (self.patch_size, self.patch_size)
        return nn.Conv(self.width, patch, patch, padding="VALID", name="patches", **dtypes)(images)

    def _tokens(self, patches: jax.Array) -> jax.Array:
        """[batch, length, width] with positions and, for pool="cls", the class token first."""
        batch, height, width, features = patches.shape
        x = patches.reshape(batch, height * width, features)
        has_cls = self.pool == "cls"
        if self.positions == "sincos":
            x = x + jnp.asarray(layers.sincos_positions(height, width, features), x.dtype)
        if has_cls:
            cls = self.param("cls", nn.initializers.zeros, (1, 1, features), self.param_dtype)
            x = jnp.concatenate([jnp.broadcast_to(cls, (batch, 1, features)).astype(x.dtype), x], axis=1)
        if self.positions == "learned":
            shape = (1, height * width + has_cls, features)
            x = x + self.param("positions", nn.initializers.normal(0.02), shape, self.param_dtype).astype(x.dtype)
        return x

    def _encode(self, x: jax.Array, train: bool, dtypes: dict[str, Any]) -> jax.Array:
        block = layers.remat(Block, self.remat, static_argnums=(3,))  # 3: train, counted from self
        scan = nn.scan(
            block,
            variable_axes={"params": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=(0, nn.broadcast),
            length=self.depth,
            unroll=min(self.unroll, self.depth),
        )
        blocks = scan(
            self.mlp_dim, self.num_heads, self.dropout, self.layer_norm_epsilon, self.gelu, self.qkv_bias,
            self.key_bias, self.qk_norm, self.norm_bias, self.parallel, dtypes, name="blocks",
        )  # fmt: skip
        rates = jnp.linspace(0, self.stochastic_depth, self.depth)
        return blocks(x, rates, train)[0]
