"""Face embeddings on the unit sphere, and angular-margin losses.

ArcFace: Deng et al., "ArcFace: Additive Angular Margin Loss for Deep Face Recognition", 2019. CosFace: Wang et al.,
"CosFace: Large Margin Cosine Loss for Deep Face Recognition", 2018.
"""

import functools
import math
from collections.abc import Callable
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from research.models import layers
from research.models.dense import Dense
from research.models.shapes import AnyArray, Images
from research.models.specs import COUNT, DTYPE, RATE, around
from research.parallel.sharding import Table, constrain
from research.spec import Spec, checks, field

LOGICAL_AXES = (
    ("embedding_norm/(bias|mean|var)", (None,)),
    ("embedding/kernel", ("embed", None)),
    # There may be millions of people, so the class centres are sharded over `tensor`, like a vocabulary.
    ("centres", ("embed", "vocab")),
)
MOMENTUM = 0.9  # of the last batch norm
SMALLEST = 1e-6  # lower clip of a squared sine or length, since the gradient of sqrt(0) is infinite


def arcface(cosines: Float[Array, "*shape"], margin: float) -> Float[Array, "*shape"]:
    """cos(angle + margin), `margin` in radians from 0 to pi.

    If angle + margin exceeds pi, where the cosine would rise again, cos(angle) - margin sin(margin), which decreases.
    """
    sines = jnp.sqrt(jnp.maximum(1 - cosines**2, SMALLEST))
    moved = cosines * math.cos(margin) - sines * math.sin(margin)
    return jnp.where(cosines > -math.cos(margin), moved, cosines - margin * math.sin(margin))


def cosface(cosines: Float[Array, "*shape"], margin: float) -> Float[Array, "*shape"]:
    """cos(angle) - margin."""
    return cosines - margin


MARGINS: dict[str, Callable[[jax.Array, float], jax.Array]] = {
    "arcface": arcface,
    "cosface": cosface,
    "none": lambda cosines, margin: cosines,  # normalised softmax
}


def margin_logits(
    cosines: Float[Array, "batch classes"], labels: Int[AnyArray, " batch"], name: str, margin: float, scale: float
) -> Float[Array, "batch classes"]:
    """`scale` times `cosines` [batch, people], with the margin applied to the target class (`labels` [batch])."""
    own = jax.nn.one_hot(labels, cosines.shape[-1], dtype=bool)
    return scale * jnp.where(own, MARGINS[name](cosines, margin), cosines)


def unit(x: Float[Array, "*shape"], axis: int = -1) -> Float[Array, "*shape"]:
    """`x` L2-normalised along an axis."""
    return x * jax.lax.rsqrt(jnp.maximum((x * x).sum(axis, keepdims=True), SMALLEST))


class FaceModelSpec(Spec):
    """The embedding of a face."""

    embed_dim: int = field(default=512, check=COUNT, doc="features of an embedding")
    flatten: bool = field(default=False, doc="flatten the coarsest map instead of averaging it, for aligned faces")
    embed_dropout: float = field(default=0.0, check=RATE, doc="dropout rate before the dense layer")
    embed_norm: str = field(
        default="batch", absent="batch", check=checks.one_of("batch", "layer"),
        doc="norm after the dense layer; layer does not mix examples, as config.privacy requires",
    )  # fmt: skip


class FaceModel(nn.Module):
    """Images to L2-normalised embeddings [batch, embed_dim] and cosines [batch, num_classes] with the class centres.

    The coarsest feature map of `backbone` (a model with 0 classes) is averaged or, with `flatten`, flattened, which is
    better for aligned faces; then dropout, a dense layer and batch norm follow, as in the ArcFace paper (section 3.1),
    or layer norm.
    From the dense layer on, everything is in float32.
    """

    backbone: nn.Module
    spec: FaceModelSpec
    num_classes: int
    param_dtype: str = DTYPE
    spec_class: ClassVar[type[Spec]] = FaceModelSpec
    of = around

    @property
    def logical_axes(self) -> Table:
        """From parameter path to logical axes."""
        return (*LOGICAL_AXES, *self.backbone.logical_axes)

    @nn.compact
    def __call__(
        self, images: Images, train: bool = False
    ) -> tuple[Float[Array, "batch embed"], Float[Array, "batch classes"]]:
        x = self.backbone(images, train)[-1]
        x = x.reshape(len(x), -1) if self.spec.flatten else x.mean((1, 2))
        dtype = layers.at_least_float32(x.dtype)
        x = constrain(nn.Dropout(self.spec.embed_dropout, deterministic=not train)(x), ("batch", "embed")).astype(dtype)
        dtypes = {"dtype": dtype, "param_dtype": self.param_dtype}
        x = Dense(self.spec.embed_dim, use_bias=False, name="embedding", **dtypes)(x)
        norm = layers.batch_norm(use_running_average=not train, momentum=MOMENTUM, use_scale=False, **dtypes)
        if self.spec.embed_norm == "layer":
            norm = functools.partial(layers.LayerNorm, use_scale=False, **dtypes)
        embeddings = constrain(unit(norm(name="embedding_norm")(x)), ("batch", "embed"))
        centres = self.param(
            "centres", nn.initializers.normal(0.01), (self.spec.embed_dim, self.num_classes), self.param_dtype
        )
        # At the highest precision, since accelerators would round to bfloat16, and margins are small angles.
        cosines = jnp.matmul(embeddings, unit(jnp.asarray(centres, dtype), axis=0), precision="highest")
        return embeddings, constrain(cosines, ("batch", "vocab"))
