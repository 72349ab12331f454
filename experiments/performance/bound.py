"""A lower bound on the time of a piece of work on this machine: its roofline (Williams et al., 2009).

A program has to compute its matrix products, and to read and write what does not stay in caches between uses. A program
that overlaps the two takes at least the longer time, at the matrix-product speed and the memory bandwidth that are
measured on the machine. Counted are

training    the model FLOPs of the step (`measure/flops.py`: products and convolutions, forward and backward, nothing
            computed twice), and one reading and one writing of every array of the state (parameters, moments of the
            optimizer, batch statistics) and of the gradients. Activations are not counted: how many of them leave the
            caches depends on the program, and their cost beyond the bound may be avoidable.
decoding    a first phase, the encoder and the keys and values of cross-attention, with its FLOPs and its weights once;
            then as many steps as there are tokens, each with its FLOPs, the weights that its products multiply, and the
            key-value caches: those of the source in full, those of the target up to the current token, on average.
            Weights count in the compute dtype.

So elementwise operations, norms, softmax and sums are free in the bound, and convolutions run at the speed of products.
"""

import dataclasses
import re
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from research.measure import flops
from research.models.caches import BeamKeyValues, KeyValues

PRODUCT = 2048  # rows and columns of the matrices whose product is timed
MEMORY = 2**28  # bytes of the array that is read and written: several times what the largest caches hold
# The weights of an encoder-decoder that a decoding step multiplies; the others belong to the first phase.
_FIRST = re.compile(r"decoder/.*cross_attention/(key|value)/")
_EACH_STEP = re.compile(r"decoder/|head$")


@dataclasses.dataclass(frozen=True)
class Phase:
    """Work that is done `repeats` times, one after the other: `flops` of products and `bytes` through memory."""

    flops: float
    bytes: float
    repeats: int = 1


class Machine:
    """The speeds of all cores of this process: the best of all measurements, since interference only slows down."""

    def __init__(self, dtype: str = "float32", product: int = PRODUCT, memory: int = MEMORY):
        self._matrix = jax.random.normal(jax.random.key(0), (product, product)).astype(dtype)
        self._product = jax.jit(lambda x: lax.dot(x, x, preferred_element_type=jnp.float32))
        self._flops = 2 * product**3
        # In place, so that no new pages are allocated, and cache lines need not be read before they are written.
        self._update = jax.jit(lambda x: x * 0.5 + 1, donate_argnums=0)
        self._array = jnp.ones(memory // 4, jnp.float32)
        self.flops_per_s = self.bytes_per_s = 0.0

    def measure(self, repeats: int = 3) -> None:
        """Times `repeats` products, and as many updates of an array in memory."""
        for _ in range(repeats):
            seconds = _seconds(lambda: self._product(self._matrix))
            self.flops_per_s = max(self.flops_per_s, self._flops / seconds)
        for _ in range(repeats):
            seconds = _seconds(self._updated)
            self.bytes_per_s = max(self.bytes_per_s, 2 * self._array.nbytes / seconds)

    def seconds(self, phases: Sequence[Phase]) -> float:
        """The sum over phases of the longer of the times of their products and their bytes."""
        each = (max(phase.flops / self.flops_per_s, phase.bytes / self.bytes_per_s) * phase.repeats for phase in phases)
        return sum(each)

    def _updated(self) -> jax.Array:
        self._array = self._update(self._array)
        return self._array


def training(task: Any, program: Any, batch_size: int) -> list[Phase]:
    """One training step of `task` by its `program`; see the module's docstring."""
    moved = 2 * (nbytes(program.state) + nbytes(program.state.params))
    return [Phase(flops.step_flops(task, batch_size), moved)]


def decoding(task: Any, batch_size: int) -> list[Phase]:
    """One prediction of an encoder-decoder for a batch: the encoder, then `max_decode_length` steps; see above."""
    model, length, beams = task.model, task.spec.max_decode_length, task.spec.beams
    rng = jax.eval_shape(lambda: jax.random.key(0))
    variables, batch = jax.eval_shape(task.init, rng), task.example(batch_size)
    source, segments, positions = (batch[f"source{what}"] for what in ("", "_segments", "_positions"))

    def begin(variables, source, segments, positions):
        encoded = model.apply(variables, source, segments, positions, method="encode")
        return model.apply(variables, encoded, segments, length, beams, source, method="init_cache")

    def step(variables, tokens, cache):
        return model.apply(variables, tokens, jnp.int32(0), cache, method="decode_step")

    cache = jax.eval_shape(begin, variables, source, segments, positions)
    tokens = jax.ShapeDtypeStruct((batch_size * beams,), jnp.int32)
    first, each = weights_by_phase(variables["params"], tied=getattr(model.spec, "logits", "") != "untied")
    itemsize = np.dtype(model.dtype).itemsize
    return [
        Phase(flops.forward_flops(begin, variables, source, segments, positions), first * itemsize),
        Phase(
            flops.forward_flops(step, variables, tokens, cache), each * itemsize + read_of_caches(cache, length), length
        ),
    ]


def weights_by_phase(params: Any, tied: bool) -> tuple[int, int]:
    """Numbers of weights that are multiplied once for a source, and in each step of decoding.

    Of embeddings only the rows of the tokens are read, which is nothing beside the rest, unless the logits are `tied`.
    """
    first = each = 0
    for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
        name = "/".join(str(key.key) for key in path)
        if name == "embedding":
            each += leaf.size * tied
        elif _EACH_STEP.match(name) and not _FIRST.match(name):
            each += leaf.size
        else:
            first += leaf.size
    return first, each


def read_of_caches(cache: Any, length: int) -> float:
    """The bytes of keys and values that the mean of `length` steps reads: those of t + 1 tokens in step t."""
    is_cache = lambda each: isinstance(each, KeyValues)
    found = [each for each in jax.tree.leaves(cache, is_leaf=is_cache) if is_cache(each)]
    written = (length + 1) / (2 * length)
    return sum(nbytes(each) * (written if isinstance(each, BeamKeyValues) else 1) for each in found)


def nbytes(tree: Any) -> int:
    """The bytes of the arrays of a tree, abstract or not."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _seconds(function: Any) -> float:
    begun = time.perf_counter()
    jax.block_until_ready(function())
    return time.perf_counter() - begun
