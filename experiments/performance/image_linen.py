"""A ViT as an example of flax would train it: layers of Linen and an optimizer of optax, one jitted step, no more.

What Tessera adds to this (dense layers, attention and norms of its own, sharding constraints, metrics) should cost
nothing. Both sides run in a process in which XLA is set up in the same way.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

NAME = "Linen alone"


class Layer(nn.Module):
    """A pre-norm layer."""

    num_heads: int
    mlp_dim: int
    epsilon: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Tokens [batch, length, width] to such."""
        normed = nn.LayerNorm(self.epsilon)(x)
        x = x + nn.MultiHeadDotProductAttention(self.num_heads)(normed, normed)
        hidden = nn.gelu(nn.Dense(self.mlp_dim)(nn.LayerNorm(self.epsilon)(x)), approximate=False)
        return x + nn.Dense(x.shape[-1])(hidden)


class ViT(nn.Module):
    """The model of a `ViTSpec` with a class token, learned positions and exact GELUs, without dropout."""

    spec: Any
    num_classes: int

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Images [batch, height, width, channels] to logits [batch, classes]."""
        spec, patch = self.spec, (self.spec.patch_size,) * 2
        x = nn.Conv(spec.width, patch, patch, padding="VALID")(images)
        x = x.reshape(len(images), -1, spec.width)
        cls = self.param("cls", nn.initializers.zeros, (1, 1, spec.width))
        x = jnp.concatenate([jnp.broadcast_to(cls, (len(images), 1, spec.width)), x], axis=1)
        x = x + self.param("positions", nn.initializers.normal(0.02), (1, *x.shape[1:]))
        for _ in range(spec.depth):
            x = Layer(spec.num_heads, spec.mlp_dim, spec.layer_norm_epsilon)(x)
        return nn.Dense(self.num_classes)(nn.LayerNorm(spec.layer_norm_epsilon)(x)[:, 0])


class Linen:
    """Training steps of `ViT` on one batch, with AdamW as the config has it."""

    def __init__(self, config: Any, task: Any, batch: dict[str, np.ndarray]):
        model, optimizer = ViT(config.model, task.model.num_classes), config.optimizer
        adamw = optax.adamw(
            optimizer.learning_rate, optimizer.b1, optimizer.b2, optimizer.eps, weight_decay=optimizer.weight_decay
        )
        mean, std = np.float32(task.mean), np.float32(task.std)

        def loss(params, images, labels):
            logits = model.apply(params, (images.astype(jnp.float32) - mean) / std)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        def step(params, state, images, labels):
            value, gradients = jax.value_and_grad(loss)(params, images, labels)
            updates, state = adamw.update(gradients, state, params)
            return optax.apply_updates(params, updates), state, value

        self._params = model.init(jax.random.key(0), jnp.zeros((1, *task.image_shape)))
        self._state = adamw.init(self._params)
        self._batch = jnp.asarray(batch["image"]), jnp.asarray(batch["label"])
        self._step = jax.jit(step, donate_argnums=(0, 1))
        self.num_params = sum(leaf.size for leaf in jax.tree.leaves(self._params))

    def run(self) -> np.ndarray:
        """One training step, which returns its loss."""
        self._params, self._state, loss = jax.block_until_ready(self._step(self._params, self._state, *self._batch))
        return np.asarray(loss)
