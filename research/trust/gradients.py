"""Grad-CAM (Selvaraju et al., 2017) and gradients times input, with respect to values within a model.

A `Tap` names a value within a model, by the path of a module. Nothing in the model is changed for it.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

Run = Callable[[], jax.Array]  # applies a model; scores [batch, ...]


@dataclasses.dataclass(frozen=True)
class Tap:
    """The output of a method of the module at `path`, such as "backbone/stage4_block2"; its input if `of_input`."""

    path: str
    method: str = "__call__"
    of_input: bool = False

    def read(self, run: Run) -> Any:
        """The value, the first time that it is computed in `run`."""
        return self._run(run, None)[1]

    def gradient(self, run: Run) -> tuple[jax.Array, jax.Array]:
        """The value, and the gradient of the sum of the scores of `run` with respect to it."""
        shape = jax.eval_shape(lambda: self.read(run))

        def total(delta):
            score, value = self._run(run, delta)
            return score.sum(), value

        gradient, value = jax.grad(total, has_aux=True)(jnp.zeros(shape.shape, shape.dtype))
        return value, gradient

    def _run(self, run: Run, delta: jax.Array | None) -> tuple[jax.Array, Any]:
        seen = []

        def add(value):
            if seen:
                return value
            seen.append(value)
            return value if delta is None else value + delta

        def intercept(call, args, kwargs, context):
            if context.method_name != self.method or "/".join(context.module.path) != self.path:
                return call(*args, **kwargs)
            if self.of_input:
                return call(add(args[0]), *args[1:], **kwargs)
            return add(call(*args, **kwargs))

        with nn.intercept_methods(intercept):
            score = run()
        if not seen:
            raise ValueError(f"the model has no module {self.path!r} with a method {self.method}")
        return score, seen[0]


def grad_cam(tap: Tap, run: Run) -> jax.Array:
    """The maps [batch, height, width] of a tapped feature map [batch, height, width, channels], 0 or more.

    The rectified sum of the channels, each weighted with the mean of its gradient over all positions.
    """
    value, gradient = tap.gradient(run)
    return nn.relu(jnp.einsum("bhwc,bc->bhw", value, gradient.mean((1, 2))))


def times_input(tap: Tap, run: Run, inputs: jax.Array | None = None) -> jax.Array:
    """Scores [batch, length] of a tapped value [batch, length, width]: its product with its gradient.

    `inputs` replaces the value in the product, such as embeddings of tokens alone where positions are added before.
    """
    value, gradient = tap.gradient(run)
    return ((value if inputs is None else inputs) * gradient).sum(-1)
