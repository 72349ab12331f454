"""The CNN of airbench94 (Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", 2024, arXiv 2404.00498).

A 2x2 convolution that whitens patches, then stages of two 3x3 convolutions with a 2x2 max-pool after the first, batch
norm without scale, GELU; a global max-pool and a linear head whose logits are scaled down. Convolutions start as the
identity on as many channels as they can (section 3.3). The whitening kernel is computed from training images (Page,
"How to train your ResNet", 2018) before the first step, and config.optimizer.freeze should name it.
"""

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from research.models import layers
from research.models.shapes import Images
from research.models.specs import COUNT, DTYPE, EPSILON, RATE, from_fields
from research.parallel.sharding import constrain
from research.spec import Spec, checks, field

LOGICAL_AXES = (
    ("(whitening|stage[0-9]+_conv[12])/kernel", ("height", "width", "channels_in", "channels")),
    ("whitening/bias", ("channels",)),
    ("stage[0-9]+_norm[12]/(bias|mean|var)", ("channels",)),
    ("head/kernel", ("embed", "classes")),
)

IMAGE = ("batch", "height", "width", "channels")
PATCH = 2  # px; height and width of a whitened patch
_uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")  # the default of torch's convolutions


class WhitenedCNNSpec(Spec, tag="whitened_cnn"):
    """A CNN whose first convolution whitens patches of the training images."""

    widths: tuple[int, ...] = field(
        default=(64, 256, 256), check=checks.not_empty() & checks.each(COUNT), doc="features of each stage"
    )
    logit_scale: float = field(default=1 / 9, check=checks.above(0), doc="factor of the logits")
    momentum: float = field(default=0.6, check=RATE, doc="decay of the moving averages of batch norm")
    epsilon: float = field(default=1e-12, check=EPSILON, doc="added to the variance in batch norm")
    whitening_epsilon: float = field(
        default=5e-4, check=EPSILON, doc="added to the eigenvalues of the second moments of patches"
    )


def dirac(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
    """A kernel [height, width, in, out] that passes channel i on to channel i, for as many as there are on both sides.

    Further outputs have the uniform initial values of torch. Height and width are odd.
    """
    height, width, inputs, outputs = shape
    same = np.arange(min(inputs, outputs))
    identity = np.zeros(shape, np.float32)
    identity[height // 2, width // 2, same, same] = 1
    return jnp.where(np.arange(outputs) < len(same), jnp.asarray(identity, dtype), _uniform(key, shape, dtype))


def max_pool(x: Float[Array, "batch _ _ channels"]) -> Float[Array, "batch _ _ channels"]:
    """The maxima of 2x2 px, without an odd last row or column."""
    # As maxima of slices: XLA's gradient of a window maximum is a scatter, which is slow on CPUs.
    height, width = (side // 2 * 2 for side in x.shape[1:3])
    rows = jnp.maximum(x[:, 0:height:2], x[:, 1:height:2])
    return jnp.maximum(rows[:, :, 0:width:2], rows[:, :, 1:width:2])


class WhitenedCNN(nn.Module):
    """Images [batch, height, width, channels] to logits [batch, num_classes] in float32.

    Batch norm statistics are over one microbatch, over the whole mesh.
    """

    spec: WhitenedCNNSpec
    num_classes: int
    dtype: str = DTYPE
    param_dtype: str = DTYPE
    logical_axes = LOGICAL_AXES
    spec_class: ClassVar[type[Spec]] = WhitenedCNNSpec
    of = from_fields

    @nn.compact
    def __call__(self, images: Images, train: bool = False) -> Float[Array, "batch classes"]:
        spec, least = self.spec, PATCH - 1 + 2 ** len(self.spec.widths)
        if min(images.shape[1:3]) < least:
            raise ValueError(
                f"images are {images.shape[1]} x {images.shape[2]} px; WhitenedCNN with {len(spec.widths)} stages "
                f"needs at least {least} px, raise config.data.image_size or shorten config.model.widths"
            )
        dtypes: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        conv = functools.partial(nn.Conv, kernel_size=(3, 3), use_bias=False, kernel_init=dirac, **dtypes)
        norm = layers.batch_norm(
            use_running_average=not train, momentum=spec.momentum, epsilon=spec.epsilon, use_scale=False, **dtypes
        )
        gelu = layers.GELU["exact"]
        patches = 2 * PATCH**2 * images.shape[-1]  # each eigenvector twice, with both signs
        x = nn.Conv(patches, (PATCH, PATCH), padding="VALID", kernel_init=_uniform, name="whitening", **dtypes)(
            images.astype(self.dtype)
        )
        x = constrain(gelu(x), IMAGE)
        for stage, width in enumerate(spec.widths, start=1):
            x = max_pool(conv(width, name=f"stage{stage}_conv1")(x))
            x = constrain(gelu(norm(name=f"stage{stage}_norm1")(x)), IMAGE)
            x = norm(name=f"stage{stage}_norm2")(conv(width, name=f"stage{stage}_conv2")(x))
            x = constrain(gelu(x), IMAGE)
        x = constrain(x.max((1, 2)), ("batch", "embed"))
        logits = layers.classify(x, self.num_classes, self.param_dtype, use_bias=False, kernel_init=_uniform)
        return logits * spec.logit_scale

    def from_images(
        self, batches: Iterable[np.ndarray], mean: Sequence[float], std: Sequence[float]
    ) -> Mapping[str, np.ndarray]:
        """The initial values, by path, of the parameters that depend on training images: the whitening kernel.

        Args:
            batches: uint8 images [count, height, width, channels].
            mean: Subtracted from images before the model, per channel.
            std: Images are divided by it, per channel.
        """
        moments = second_moments(batches, mean, std)
        return {"whitening/kernel": whitening(moments, len(mean), self.spec.whitening_epsilon)}


def second_moments(batches: Iterable[np.ndarray], mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """The mean of z z^T over all patches z of normalised images, flattened as height, width, channels, in float64.

    `batches` are uint8 [count, height, width, channels]. Sums are over integers, and so exact: they depend on no order.
    """
    features = PATCH**2 * len(mean)
    count, first, second = 0, np.zeros(features), np.zeros((features, features))
    for images in batches:
        height, width = (side - PATCH + 1 for side in images.shape[1:3])
        shifted = [images[:, y : y + height, x : x + width] for y in range(PATCH) for x in range(PATCH)]
        patches = np.concatenate(shifted, axis=-1).reshape(-1, features).astype(np.float64)
        count, first, second = count + len(patches), first + patches.sum(0), second + patches.T @ patches
    centre, scale = np.tile(np.asarray(mean), PATCH**2), np.tile(np.asarray(std), PATCH**2)
    cross = np.outer(first / count, centre)
    return (second / count - cross - cross.T + np.outer(centre, centre)) / np.outer(scale, scale)


def whitening(moments: np.ndarray, channels: int, epsilon: float) -> np.ndarray:
    """The kernel [2, 2, channels, out] whose outputs have second moments near 1 and none between one another.

    The first half of its outputs are the eigenvectors of the `moments`, the largest first, divided by the roots of
    their eigenvalues + `epsilon`; the second half are the same, negated.
    """
    values, vectors = np.linalg.eigh(moments)
    values, vectors = values[::-1], vectors[:, ::-1]
    largest = np.abs(vectors).argmax(0)
    vectors = vectors * np.sign(vectors[largest, np.arange(len(values))])  # LAPACK leaves the signs open
    scaled = vectors / np.sqrt(values + epsilon)
    return np.concatenate([scaled, -scaled], axis=1).reshape(PATCH, PATCH, channels, -1).astype(np.float32)
