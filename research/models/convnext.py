"""ConvNeXt (Liu et al., 2022, "A ConvNet for the 2020s")."""

import functools
from typing import Any

import jax
import numpy as np
from flax import linen as nn

from research import config as config_lib
from research.models import layers
from research.parallel.sharding import constrain

SIZES = {
    "T": {"stage_sizes": (3, 3, 9, 3), "widths": (96, 192, 384, 768)},
    "S": {"stage_sizes": (3, 3, 27, 3), "widths": (96, 192, 384, 768)},
    "B": {"stage_sizes": (3, 3, 27, 3), "widths": (128, 256, 512, 1024)},
}

LOGICAL_AXES = (
    (".*(depthwise|stem|downsample[0-9])/kernel", ("height", "width", "channels_in", "channels")),
    (".*(depthwise|stem|downsample[0-9])/bias", ("channels",)),
    (".*/up/kernel", ("embed", "mlp")),
    (".*/up/bias", ("mlp",)),
    (".*/down/kernel", ("mlp", "embed")),
    (".*(down/bias|layer_scale)", ("embed",)),
    (".*norm[0-9]*/(scale|bias)", ("channels",)),
    ("head/kernel", ("embed", "classes")),
    ("head/bias", ("classes",)),
)

PICTURE = ("batch", "height", "width", "channels")
# Over `tensor`, a depthwise convolution is split by channels. Left to itself XLA computes it once on each device of the
# axis and adds the gradients of the kernel up: twice too much with tensor=2.
DEPTHWISE = ("batch", "height", "width", "depthwise")
_init = nn.initializers.truncated_normal(0.02)


class Block(nn.Module):
    """7x7 depthwise convolution, layer norm, an MLP of four times the width, layer scale, stochastic depth."""

    drop_rate: float
    layer_scale: float
    epsilon: float
    gelu: str
    dtypes: dict[str, Any]

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        width = x.shape[-1]
        conv = nn.Conv(
            width, (7, 7), padding=3, feature_group_count=width, kernel_init=_init, name="depthwise", **self.dtypes
        )
        y = constrain(conv(constrain(x, DEPTHWISE)), DEPTHWISE)
        y = constrain(layers.layer_norm(epsilon=self.epsilon, name="norm", **self.dtypes)(y), PICTURE)
        dense = functools.partial(nn.Dense, kernel_init=_init, **self.dtypes)
        y = constrain(layers.GELU[self.gelu](dense(4 * width, name="up")(y)), ("batch", "height", "width", "mlp"))
        y = constrain(dense(width, name="down")(y), PICTURE)
        if self.layer_scale:
            start = nn.initializers.constant(self.layer_scale)
            y = y * self.param("layer_scale", start, (width,), self.dtypes["param_dtype"]).astype(y.dtype)
        return constrain(x + layers.StochasticDepth()(y, self.drop_rate, train), PICTURE)


class ConvNeXt(nn.Module):
    """Pictures [batch, height, width, channels] to logits [batch, num_classes] in float32."""

    num_classes: int
    stage_sizes: tuple[int, ...] = (3, 3, 9, 3)
    widths: tuple[int, ...] = (96, 192, 384, 768)
    stochastic_depth: float = 0.0  # of the last block; it grows linearly from 0
    layer_scale: float = 1e-6  # its initial value; 0 is off
    epsilon: float = 1e-6
    last_epsilon: float = 1e-6  # of the norm before the head, where transformers has another
    gelu: str = "exact"
    dtype: str = "float32"
    param_dtype: str = "float32"
    logical_axes = LOGICAL_AXES

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        config_lib.choose(layers.GELU, self.gelu, "model.gelu")
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        conv = functools.partial(nn.Conv, padding="VALID", kernel_init=_init, **dtypes)
        norm = functools.partial(layers.layer_norm, epsilon=self.epsilon, **dtypes)
        rates = iter(np.linspace(0, self.stochastic_depth, sum(self.stage_sizes)))
        x = conv(self.widths[0], (4, 4), 4, name="stem")(images.astype(self.dtype))
        x = constrain(norm(name="stem_norm")(x), PICTURE)
        for stage, (blocks, width) in enumerate(zip(self.stage_sizes, self.widths, strict=True)):
            if stage:
                x = norm(name=f"downsample_norm{stage}")(x)
                x = constrain(conv(width, (2, 2), 2, name=f"downsample{stage}")(x), PICTURE)
            for index in range(blocks):
                block = Block(
                    float(next(rates)),
                    self.layer_scale,
                    self.epsilon,
                    self.gelu,
                    dtypes,
                    name=f"stage{stage + 1}_block{index + 1}",
                )
                x = block(x, train)
        x = constrain(norm(name="norm", epsilon=self.last_epsilon)(x.mean((1, 2))), ("batch", "embed"))
        return layers.classify(x, self.num_classes, self.param_dtype, kernel_init=_init)
