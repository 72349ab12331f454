"""AlexNet (Krizhevsky et al., 2012) in the single-tower form of torchvision (Krizhevsky, 2014): 61.1M parameters."""

from typing import Any, ClassVar

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from research.models import layers
from research.models.dense import Dense
from research.models.shapes import Images
from research.models.specs import COUNT, DTYPE, RATE, from_fields
from research.parallel.sharding import constrain
from research.spec import Spec, field

LOGICAL_AXES = (
    ("conv[0-9]/kernel", ("height", "width", "channels_in", "channels")),
    ("conv[0-9]/bias", ("channels",)),
    ("dense1/kernel", ("embed", "mlp")),
    ("dense1/bias", ("mlp",)),
    ("dense2/kernel", ("mlp", "embed")),
    ("dense2/bias", ("embed",)),
    ("head/kernel", ("embed", "classes")),
    ("head/bias", ("classes",)),
)

IMAGE = ("batch", "height", "width", "channels")
# features, kernel, stride, padding, and whether a 3x3 max-pool of stride 2 follows
_CONVS = (
    (64, 11, 4, 2, True),
    (192, 5, 1, 2, True),
    (384, 3, 1, 1, False),
    (256, 3, 1, 1, False),
    (256, 3, 1, 1, True),
)


class AlexNetSpec(Spec, tag="alexnet"):
    """An AlexNet."""

    dropout: float = field(default=0.5, check=RATE, doc="dropout rate before each dense layer")
    mlp_dim: int = field(default=4096, check=COUNT, doc="features of the two dense layers")


class AlexNet(nn.Module):
    """Images [batch, height, width, channels] of at least 63 px to logits [batch, num_classes] in float32."""

    spec: AlexNetSpec
    num_classes: int
    dtype: str = DTYPE
    param_dtype: str = DTYPE
    logical_axes = LOGICAL_AXES
    spec_class: ClassVar[type[Spec]] = AlexNetSpec
    of = from_fields

    @nn.compact
    def __call__(self, images: Images, train: bool = False) -> Float[Array, "batch classes"]:
        if min(images.shape[1:3]) < 63:
            raise ValueError(
                f"images are {images.shape[1]} x {images.shape[2]} px; AlexNet needs at least 63 px, raise "
                "config.data.image_size"
            )
        dtypes: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x = jnp.asarray(images, self.dtype)
        for index, (features, kernel, stride, padding, pool) in enumerate(_CONVS, start=1):
            x = nn.Conv(features, (kernel, kernel), stride, padding=padding, name=f"conv{index}", **dtypes)(x)
            x = constrain(nn.relu(x), IMAGE)
            if pool:
                x = nn.max_pool(x, (3, 3), (2, 2))
        x = constrain(x.reshape(x.shape[0], -1), ("batch", "embed"))
        for index, axis in ((1, "mlp"), (2, "embed")):
            x = nn.Dropout(self.spec.dropout, deterministic=not train)(x)
            x = constrain(nn.relu(Dense(self.spec.mlp_dim, name=f"dense{index}", **dtypes)(x)), ("batch", axis))
        return layers.classify(x, self.num_classes, self.param_dtype)
