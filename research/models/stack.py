"""A stack of layers: a repeated pattern of blocks, as a scan in one or several segments."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct
from jaxtyping import Array, Float

from research.models import attention, mlp
from research.models import block as blocks
from research.models.attention import CAPTURED, Context
from research.models.caches import KeyValues
from research.models.remat import remat
from research.models.shapes import Size
from research.parallel.sharding import Table

Pattern = Sequence[tuple[str, Callable[..., nn.Module]]]
Tree = dict[str, Any]

# For a stack named `blocks`, with one or several blocks in its pattern.
LOGICAL_AXES: Table = tuple(
    (f"blocks/(?:[a-z_]+/)?{pattern}", names)
    for pattern, names in (*attention.LOGICAL_AXES, *mlp.LOGICAL_AXES, *blocks.LOGICAL_AXES)
)


@dataclasses.dataclass(frozen=True)
class Segment:
    """Repeats of a stack's pattern with the same compilation settings.

    remat    rematerialisation policy, see remat.REMAT
    unroll   repeats unrolled per scan iteration
    frozen   whether the parameters are frozen
    """

    repeats: int
    remat: str = "none"
    unroll: int = 1
    frozen: bool = False


@struct.dataclass
class StackCache:
    """The caches of all layers for decoding.

    If all repeats are unrolled, `layers` and `params` are tuples with one tree per repeat: slices of whole arrays would
    be copied in every step, which on a CPU took a third of the time. Otherwise `layers` is one tree of arrays with a
    leading axis, and `params` is None.
    """

    layers: Any
    params: tuple[Tree, ...] | None = None


class Stack(nn.Module):
    """Applies `repeats` of a pattern of blocks (see block.py) to tokens [batch, ..., length, width].

    The parameters are those of a block, with a leading axis of repeats, or of length 1 if they are `shared`; if the
    pattern has several blocks (local and global attention, dense and expert MLPs), each is under its name. They do not
    depend on the segments, which can therefore be changed between runs. If the collection CAPTURED is mutable, what the
    blocks store in it (see attention.Attention) is stored as `layers`, with a leading axis of repeats, by block if the
    pattern has several.

    pattern            (name, constructor of a block), in order
    segments           all repeats, divided into segments
    stochastic_depth   the rate of the last layer; it grows linearly from 0
    shared             all repeats have the same parameters (Dehghani et al., "Universal Transformers", 2019)
    """

    pattern: Pattern
    segments: Sequence[Segment]
    stochastic_depth: float = 0.0
    shared: bool = False

    def __call__(self, x: Float[Array, "batch *axes embed"], context: Context) -> Float[Array, "batch *axes embed"]:
        """The tokens after all layers."""
        if self.is_initializing() and not self.variables.get("params"):
            self._create(x, dataclasses.replace(context, train=False))
        whole, rates = self._params, self._rates()
        has_rng = context.train and self.has_rng("dropout")
        keys = jax.random.split(self.make_rng("dropout"), self.repeats) if has_rng else None
        start, captured = 0, []
        for segment in self.segments:
            part = whole, rates, keys
            if segment.repeats < self.repeats:
                part = jax.tree.map(lambda leaf, start=start, end=start + segment.repeats: leaf[start:end], part)
            x, stored = self._run(segment, x, part, context)
            captured.append(stored)
            start += segment.repeats
        if self.is_mutable_collection(CAPTURED):
            self.sow(CAPTURED, "layers", jax.tree.map(lambda *parts: jnp.concatenate(parts), *captured))
        return x

    def init_cache(self, context: Context, batch: Size, beams: int, length: int, dtype: Any) -> StackCache:
        """Empty caches for `step`: `beams` hypotheses of each example, of up to `length` tokens."""
        whole = self._params
        one = lambda params: self._apply_all(params, "init_cache", context, batch, beams, length, dtype)
        if self._in_loop:
            stacked = jax.lax.map(one, whole)
            return StackCache(
                jax.tree.map(lambda part: part and part.constrained(leading=1), stacked, is_leaf=_is_cache)
            )
        params = tuple(jax.tree.map(lambda leaf, i=i: leaf[i], whole) for i in range(self.repeats))
        return StackCache(tuple(map(one, params)), params)

    def step(
        self, x: Float[Array, "batch beams embed"], cache: StackCache, context: Context
    ) -> tuple[Float[Array, "batch beams embed"], StackCache]:
        """The next tokens [batch, beams, width] after all layers, and the cache with them."""
        if cache.params is not None:
            layers = []
            for params, caches in zip(cache.params, cache.layers, strict=True):
                x, _, written = self._step(params, x, caches, context)
                layers.append(written)
            return x, dataclasses.replace(cache, layers=tuple(layers))

        # Written after the loop, in which the caches would be copied.
        def body(x, each):
            x, new, _ = self._step(each[0], x, each[1], context)
            return x, new

        x, new = jax.lax.scan(body, x, (self._params, cache.layers), unroll=self._unroll)
        write = lambda new, old: old if new is None else old.write(new, context.positions)
        return x, dataclasses.replace(cache, layers=jax.tree.map(write, new, cache.layers, is_leaf=_is_cache))

    @property
    def repeats(self) -> int:
        """The number of repeats of the pattern."""
        return sum(segment.repeats for segment in self.segments)

    @property
    def _params(self) -> Any:
        """The parameters of all repeats, with a leading axis."""
        whole = self.variables["params"]
        if not self.shared:
            return whole
        return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (self.repeats, *leaf.shape[1:])), whole)

    @property
    def _unroll(self) -> int:
        return min(segment.unroll for segment in self.segments)

    @property
    def _in_loop(self) -> bool:
        """Whether decoding is a scan over the repeats."""
        return any(segment.unroll < segment.repeats for segment in self.segments)

    def _blocks(self) -> list[tuple[str, nn.Module]]:
        return [(name, make(parent=None)) for name, make in self.pattern]

    def _of(self, tree: Tree, name: str) -> Tree:
        return tree if len(self.pattern) == 1 else tree[name]

    def _joined(self, trees: list[Any]) -> Any:
        return trees[0] if len(self.pattern) == 1 else dict(zip([name for name, _ in self.pattern], trees, strict=True))

    def _create(self, x: jax.Array, context: Context) -> None:
        def one(key):
            keys = jax.random.split(key, len(self.pattern))
            blocks = zip(keys, self._blocks(), strict=True)
            return self._joined([block.init(key, x, context)["params"] for key, (_, block) in blocks])

        # One repeat at a time, to limit the memory for initialisation.
        count = 1 if self.shared else self.repeats
        whole = jax.lax.map(one, jax.random.split(self.make_rng("params"), count))
        for name, leaf in whole.items():
            self.put_variable("params", name, leaf)

    def _rates(self) -> jax.Array | None:
        """The rates of stochastic depth [repeats, blocks of the pattern]."""
        if not self.stochastic_depth:
            return None
        shape = self.repeats, len(self.pattern)
        return jnp.linspace(0, self.stochastic_depth, shape[0] * shape[1]).reshape(shape)

    def _run(self, segment: Segment, x: jax.Array, part: Any, context: Context) -> tuple[jax.Array, Any]:
        """The tokens after the layers of a segment, and what these store in CAPTURED; empty if it is not mutable."""
        capture = self.is_mutable_collection(CAPTURED)

        def layer(index, params, x, context, rate, key):
            rngs = {} if key is None else {"dropout": jax.random.fold_in(key, index) if index else key}
            block = self._blocks()[index][1]
            if capture:
                return block.apply({"params": params}, x, context, rate, rngs=rngs, mutable=[CAPTURED])
            return block.apply({"params": params}, x, context, rate, rngs=rngs), {}

        in_loop = segment.unroll < segment.repeats
        layers = [
            (name, remat(functools.partial(layer, index), segment.remat, in_loop))
            for index, (name, _) in enumerate(self.pattern)
        ]

        def body(x, each):
            params, rates, key = each
            stored = []
            for index, (name, run) in enumerate(layers):
                x, found = run(self._of(params, name), x, context, None if rates is None else rates[index], key)
                stored.append(found)
            return x, self._joined([found.get(CAPTURED, {}) for found in stored])

        if segment.frozen:
            part = jax.lax.stop_gradient(part[0]), *part[1:]
        unroll = 1 if self.is_initializing() else min(segment.unroll, segment.repeats)
        return jax.lax.scan(body, x, part, unroll=unroll)

    def _apply_all(self, params: Tree, method: str, *args: Any) -> Any:
        blocks = self._blocks()
        return self._joined(
            [block.apply({"params": self._of(params, name)}, *args, method=method) for name, block in blocks]
        )

    def _step(self, params: Tree, x: jax.Array, caches: Any, context: Context) -> tuple[jax.Array, Any, Any]:
        new, written = [], []
        for name, block in self._blocks():
            variables, cache = {"params": self._of(params, name)}, self._of(caches, name)
            x, *both = block.apply(variables, x, cache, context, method="step")
            new.append(both[0])
            written.append(both[1])
        return x, self._joined(new), self._joined(written)


def _is_cache(x: Any) -> bool:
    return x is None or isinstance(x, KeyValues)
