"""A stack of layers: a pattern of blocks, repeated, as one loop or as several segments of it."""

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
from research.models.attention import Context
from research.models.caches import KeyValues
from research.models.remat import remat
from research.models.shapes import Size
from research.parallel.sharding import Table

Pattern = Sequence[tuple[str, Callable[..., nn.Module]]]
Tree = dict[str, Any]

# Of a stack called `blocks`, in whose pattern there are one or several.
LOGICAL_AXES: Table = tuple(
    (f"blocks/(?:[a-z_]+/)?{pattern}", names)
    for pattern, names in (*attention.LOGICAL_AXES, *mlp.LOGICAL_AXES, *blocks.LOGICAL_AXES)
)


@dataclasses.dataclass(frozen=True)
class Segment:
    """Repeats of a stack's pattern that are compiled in one way.

    remat    what the backward pass computes again, see remat.REMAT
    unroll   repeats that are compiled side by side
    frozen   whether the parameters are left as they are
    """

    repeats: int
    remat: str = "none"
    unroll: int = 1
    frozen: bool = False


@struct.dataclass
class StackCache:
    """The caches of all layers for decoding.

    Where all repeats are compiled side by side, `layers` and `params` are tuples of a tree each: parts of whole arrays
    would be copied anew at every step, which on a CPU took a third of the time. Else `layers` is one tree of arrays
    with a leading axis, and `params` None.
    """

    layers: Any
    params: tuple[Tree, ...] | None = None


class Stack(nn.Module):
    """Tokens [batch, ..., length, width] through `repeats` of a pattern of blocks, see block.py.

    The parameters are those of a block, with a leading axis of repeats; where the pattern has several (local and global
    attention, dense and expert MLPs), each is under its name. So the segments, which checkpoints do not depend
    on, can be changed between two runs.

    pattern            (name, constructor of a block), in order
    segments           together all repeats
    stochastic_depth   the rate of the last layer; it grows linearly from 0
    """

    pattern: Pattern
    segments: Sequence[Segment]
    stochastic_depth: float = 0.0

    def __call__(self, x: Float[Array, "batch *axes embed"], context: Context) -> Float[Array, "batch *axes embed"]:
        """The tokens after all layers."""
        if self.is_initializing() and not self.variables.get("params"):
            self._create(x, dataclasses.replace(context, train=False))
        whole, rates = self.variables["params"], self._rates()
        has_rng = context.train and self.has_rng("dropout")
        keys = jax.random.split(self.make_rng("dropout"), self.repeats) if has_rng else None
        start = 0
        for segment in self.segments:
            part = whole, rates, keys
            if segment.repeats < self.repeats:
                part = jax.tree.map(lambda leaf, start=start, end=start + segment.repeats: leaf[start:end], part)
            x = self._run(segment, x, part, context)
            start += segment.repeats
        return x

    def init_cache(self, context: Context, batch: Size, beams: int, length: int, dtype: Any) -> StackCache:
        """Empty caches for `step`: `beams` hypotheses of each example, of up to `length` tokens."""
        whole = self.variables["params"]
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

        # What each layer has written is left alone: a loop would copy it.
        def body(x, each):
            x, new, _ = self._step(each[0], x, each[1], context)
            return x, new

        x, new = jax.lax.scan(body, x, (self.variables["params"], cache.layers), unroll=self._unroll)
        write = lambda new, old: old if new is None else old.write(new, context.positions)
        return x, dataclasses.replace(cache, layers=jax.tree.map(write, new, cache.layers, is_leaf=_is_cache))

    @property
    def repeats(self) -> int:
        """Of the pattern."""
        return sum(segment.repeats for segment in self.segments)

    @property
    def _unroll(self) -> int:
        return min(segment.unroll for segment in self.segments)

    @property
    def _in_loop(self) -> bool:
        """Whether decoding is a loop over the repeats."""
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

        # One repeat after the other, so that no more than the numbers of one are drawn at a time.
        whole = jax.lax.map(one, jax.random.split(self.make_rng("params"), self.repeats))
        for name, leaf in whole.items():
            self.put_variable("params", name, leaf)

    def _rates(self) -> jax.Array | None:
        """Of stochastic depth: [repeats, blocks of the pattern]."""
        if not self.stochastic_depth:
            return None
        shape = self.repeats, len(self.pattern)
        return jnp.linspace(0, self.stochastic_depth, shape[0] * shape[1]).reshape(shape)

    def _run(self, segment: Segment, x: jax.Array, part: Any, context: Context) -> jax.Array:
        def layer(index, params, x, context, rate, key):
            rngs = {} if key is None else {"dropout": jax.random.fold_in(key, index) if index else key}
            return self._blocks()[index][1].apply({"params": params}, x, context, rate, rngs=rngs)

        in_loop = segment.unroll < segment.repeats
        layers = [
            (name, remat(functools.partial(layer, index), segment.remat, in_loop))
            for index, (name, _) in enumerate(self.pattern)
        ]

        def body(x, each):
            params, rates, key = each
            for index, (name, run) in enumerate(layers):
                x = run(self._of(params, name), x, context, None if rates is None else rates[index], key)
            return x, None

        if segment.frozen:
            part = jax.lax.stop_gradient(part[0]), *part[1:]
        unroll = 1 if self.is_initializing() else min(segment.unroll, segment.repeats)
        return jax.lax.scan(body, x, part, unroll=unroll)[0]

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
