"""A stack of transformer layers, as one scan, with its positions: an encoder, or a decoder with its cache.

Packed examples are contiguous in their row, so distances between the places of a row are those inside an example.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from research.models import layers
from research.models.transformer import TOKENS, Block, Settings, constrain_cache, write
from research.parallel.sharding import constrain

POSITIONS = ("relative", "sinusoidal", "learned")

Cache = dict[str, Any]


def buckets(distances: np.ndarray, count: int, max_distance: int, causal: bool) -> np.ndarray:
    """The bucket, below `count`, of each distance from a query to its key (Raffel et al., 2020).

    Half of the buckets are for one distance each, the others for ranges that grow geometrically up to `max_distance`.
    Unless `causal`, half of them are for keys behind the query, which are one bucket otherwise.
    """
    behind = np.zeros_like(distances)
    if not causal:
        count //= 2
        behind = (distances > 0) * count
    steps = np.maximum(-distances, 0) if causal else np.abs(distances)
    exact = count // 2
    # In float32 throughout, as in every T5 that was trained: at a border a digit more could choose another bucket.
    growth = np.log(np.maximum(steps, 1).astype(np.float32) / np.float32(exact))
    share = growth / np.float32(np.log(max_distance / exact))
    ranges = exact + (share * np.float32(count - exact)).astype(np.int32)
    return behind + np.where(steps < exact, steps, np.minimum(ranges, count - 1))


class Stack(nn.Module):
    """Embedded tokens [batch, length, width] to features [batch, length, width].

    A token sees the tokens of its segment, in a decoder (`causal`) those up to itself, and those of the same segment
    of what the encoder made. The layers are one scan whose parameters carry a leading axis.
    """

    settings: Settings
    depth: int
    causal: bool
    positions: str
    max_length: int  # of learned positions
    num_buckets: int
    max_distance: int
    remat: str
    unroll: int

    def setup(self) -> None:
        settings, dtype = self.settings, self.settings.param_dtype
        if self.positions == "relative":
            init = nn.initializers.normal(settings.spec.width**-0.5)
            self.relative = self.param("relative", init, (self.num_buckets, settings.spec.num_heads), dtype)
        elif self.positions == "learned":
            init = nn.initializers.normal(0.02)
            self.learned = self.param("learned", init, (self.max_length, settings.spec.width), dtype)
        self.blocks = self._blocks()(settings, self.causal)
        if settings.spec.norm_position == "pre":
            self.norm = settings.make_norm()
        self.dropout = nn.Dropout(settings.spec.dropout)

    def __call__(
        self,
        x: jax.Array,
        segments: jax.Array,
        positions: jax.Array,
        encoded: jax.Array | None = None,
        encoded_segments: jax.Array | None = None,
        train: bool = False,
    ) -> jax.Array:
        length = x.shape[1]
        x = self.dropout(constrain(self._placed(x, positions, length), TOKENS), deterministic=not train)
        mask = _same(segments, segments)
        if self.causal:
            mask &= np.tri(length, dtype=bool)
        cross_mask = None if encoded is None else _same(segments, encoded_segments)
        x, _ = self.blocks(x, self._bias(length), mask, encoded, cross_mask, train)
        return self.dropout(self._last_norm(x), deterministic=not train)

    def init_cache(self, encoded: jax.Array, encoded_segments: jax.Array, max_length: int, beams: int) -> Cache:
        """What `step` needs to decode up to `max_length` tokens after `encoded` [batch, source length, width].

        `own` and `cross` are the keys and values of all layers, as `transformer.write` and `layers.cached_attention`
        want them: those of the source are kept once an example. A hypothesis is known by `ancestors` [batch * beams,
        length], the beams in which its tokens were written: only these move with it.
        Where layers are compiled side by side, `own`, `cross` and the parameters are split into those of each layer
        once: parts of whole arrays would be copied anew at every step, which on a CPU took a third of the time.
        """
        settings, batch = self.settings, encoded.shape[0]
        self._check_length(max_length)
        _, cross = self.blocks.keys_values(encoded)
        zeros = lambda *shape: constrain_cache(
            jnp.zeros((self.depth, batch, settings.spec.num_heads, *shape), settings.dtype), leading=1
        )
        cache = {
            "hypotheses": {"ancestors": jnp.zeros((batch * beams, max_length), jnp.int32)},
            "own": (zeros(settings.spec.kv_dim, beams, max_length), zeros(beams, max_length, settings.spec.kv_dim)),
            "cross": tuple(constrain_cache(part, leading=1) for part in cross),
            "cross_mask": (encoded_segments > 0)[:, None, None],
            "bias": self._distance_bias(np.arange(1 - max_length, max_length)),
        }
        if self.unroll < self.depth:
            return cache
        stacked = {"own": cache["own"], "cross": cache["cross"], "params": self.blocks.variables["params"]}
        return cache | {name: tuple(_layer(tree, i) for i in range(self.depth)) for name, tree in stacked.items()}

    def step(self, x: jax.Array, position: jax.Array, cache: Cache) -> tuple[jax.Array, Cache]:
        """Features [batch, beams, width] of embedded tokens at `position` (a scalar or one a row); the new cache."""
        batch, beams, _ = x.shape
        length = cache["hypotheses"]["ancestors"].shape[-1]
        position = position.reshape(1, 1) if position.ndim == 0 else position.reshape(batch, beams)
        distances = jnp.arange(length) - position[..., None]
        slots = jnp.arange(beams, dtype=jnp.int32)
        ancestors = cache["hypotheses"]["ancestors"].reshape(batch, beams, length)
        ancestors = jnp.where(distances == 0, slots[:, None], ancestors)
        mask = (ancestors[:, :, None] == slots[:, None]) & (distances <= 0)[:, :, None]
        bias = cache["bias"]
        if bias is not None:
            bias = jnp.tile(jnp.moveaxis(bias[:, distances + length - 1], 0, 1), beams)
        shared = position, bias, mask.reshape(batch, 1, beams, -1), cache["cross_mask"]
        x, own = self._step_layers(self._placed(x, position, length), cache, *shared)
        hypotheses = {"ancestors": ancestors.reshape(-1, length)}
        return self._last_norm(x), cache | {"own": own, "hypotheses": hypotheses}

    def _step_layers(self, x: jax.Array, cache: Cache, position: jax.Array, *shared: Any) -> tuple[jax.Array, Any]:
        """What the layers make of `x`, and `own` with it."""
        if "params" not in cache:
            # What each layer has written is left alone: a loop would copy it.
            x, (new, _) = self.blocks.step(x, cache["own"], cache["cross"], position, *shared)
            return x, write(cache["own"], new, position)
        block, written = Block(self.settings, self.causal, parent=None), []
        for params, own, cross in zip(cache["params"], cache["own"], cache["cross"], strict=True):
            x, (_, own) = block.apply({"params": params}, x, own, cross, position, *shared, method="step")
            written.append(own)
        return x, tuple(written)

    def _blocks(self) -> type[nn.Module]:
        in_loop = self.unroll < self.depth
        block = layers.remat(Block, self.remat, static_argnums=(6,), in_loop=in_loop)  # 6: train, counted from self
        scan = functools.partial(
            dict,
            variable_axes={"params": 0},
            length=self.depth,
            # Unrolling the creation of parameters would only take longer to compile.
            unroll=1 if self.is_initializing() else min(self.unroll, self.depth),
        )
        same = nn.broadcast
        methods = {
            "__call__": scan(split_rngs={"params": True, "dropout": True}, in_axes=(same,) * 5),
            "step": scan(split_rngs={}, in_axes=(0, 0, same, same, same, same)),
            "keys_values": scan(split_rngs={}, in_axes=()),
        }
        return nn.scan(block, methods=methods)

    def _placed(self, x: jax.Array, positions: jax.Array, length: int) -> jax.Array:
        if self.positions == "sinusoidal":
            return x + layers.sinusoids(positions, x.shape[-1], x.dtype)
        if self.positions == "learned":
            self._check_length(length)
            # Whole before it is looked up, as the embeddings are; see seq2seq.py.
            return x + constrain(self.learned.astype(x.dtype), (None, "embed"))[positions]
        return x

    def _check_length(self, length: int) -> None:
        if self.positions == "learned" and length > self.max_length:
            field = "max_target_length" if self.causal else "max_source_length"
            raise ValueError(
                f"{length} positions are more than config.model.{field}={self.max_length}; raise it, or cut sequences"
            )

    def _bias(self, length: int) -> jax.Array | None:
        """[1, heads, length, length], by distance; None where positions are not relative."""
        around = np.concatenate([np.arange(length), np.arange(-length, 0)])
        bias = self._distance_bias(around)
        if bias is None:
            return None
        # Row i is `bias` turned by i places, cut out of many copies of it: gathering would cost a scatter in the
        # backward pass.
        heads, period = bias.shape
        turned = jnp.tile(bias, length)[:, : length * (period - 1)].reshape(heads, length, period - 1)
        return constrain(turned[None, :, :, :length], (None, "heads", "length", None))

    def _distance_bias(self, distances: np.ndarray) -> jax.Array | None:
        """[heads, distances] in float32; None where positions are not relative."""
        if self.positions != "relative":
            return None
        index = buckets(distances, self.num_buckets, self.max_distance, self.causal)
        return self.relative[index].T.astype(layers.at_least_float32(self.settings.dtype))

    def _last_norm(self, x: jax.Array) -> jax.Array:
        return constrain(self.norm(x), TOKENS) if self.settings.spec.norm_position == "pre" else x


def _same(queries: jax.Array, keys: jax.Array) -> jax.Array:
    """[batch, 1, query length, key length]: true where both are of one segment."""
    return (queries[:, :, None] == keys[:, None, :])[:, None]


def _layer(stacked: Any, index: int) -> Any:
    return jax.tree.map(lambda leaf: leaf[index], stacked)
