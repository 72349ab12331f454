"""Whisper's front end before the encoder-decoder (Radford et al., 2022), and a head on the encoder for CTC."""

import functools
import math
from typing import Any, ClassVar

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from research.models import layers
from research.models.dense import dot
from research.models.encoder_decoder import EncoderDecoderSpec
from research.models.seq2seq import Seq2Seq
from research.models.shapes import AnyArray
from research.parallel.sharding import Table, constrain
from research.spec import Spec, field
from research.spec.checks import Check


def _whisper(width: int, depth: int, num_heads: int) -> dict[str, Any]:
    return {
        "width": width, "encoder_depth": depth, "decoder_depth": depth, "num_heads": num_heads, "kv_dim": 64,
        "mlp_dim": 4 * width, "norm": "layer", "norm_epsilon": 1e-5, "activation": "gelu_exact", "gated": False,
        "bias": True, "key_bias": False, "attention_scale": True, "encoder_positions": "sinusoidal",
        "decoder_positions": "learned", "logits": "tied",
    }  # fmt: skip


# Radford et al. 2022, table 1. Whisper has 80 mel bands (128 in large-v3) and strides of 1 and 2.
SIZES = {
    "tiny": _whisper(384, 4, 6),
    "base": _whisper(512, 6, 8),
    "small": _whisper(768, 12, 12),
    "medium": _whisper(1024, 24, 16),
    "large": _whisper(1280, 32, 20),
}

WINDOW = 3  # frames of a kernel
# Spectrograms are not sharded in convolutions, since XLA's kernel gradient is wrong if they are split over `sequence`.
FRAMES = ("batch", None, "embed")

LOGICAL_AXES = (
    ("front_end/conv[0-9]+/kernel", (None, None, "embed")),
    ("front_end/conv[0-9]+/bias", ("embed",)),
    ("ctc_head", ("embed", "vocab")),
)


def _ignores_padding(strides: Any) -> bool:
    return bool(strides) and strides[0] in (1, 2, 3) and all(stride in (2, 3) for stride in strides[1:])


class RecogniserSpec(EncoderDecoderSpec, tag="recogniser"):
    """An encoder-decoder for spectrograms."""

    strides: tuple[int, ...] = field(
        default=(1, 2), check=Check(_ignores_padding, "must be 2 or 3 each, the first may be 1"),
        doc="stride of each convolution of the front end, in frames",
    )  # fmt: skip

    @property
    def downsampling(self) -> int:
        """The total stride: frames per encoder position."""
        return math.prod(self.strides)


class FrontEnd(nn.Module):
    """Spectrograms [batch, frames, mels] to features [batch, frames / downsampling, width].

    One zero-padded convolution over time, followed by GELU, for each stride. The features of a sound do not depend on
    the number of zero frames after it, since with a stride of 2 or more no window extends beyond the spectrogram; for
    that, only the first stride may be 1. Raises ValueError if the downsampling does not divide the number of frames.
    """

    spec: RecogniserSpec
    dtype: str = "float32"
    param_dtype: str = "float32"

    @nn.compact
    def __call__(
        self, frames: Float[AnyArray, "batch frames mels"], train: bool = False
    ) -> Float[Array, "batch length embed"]:
        if frames.shape[1] % self.spec.downsampling:
            raise ValueError(
                f"{frames.shape[1]} frames are not a multiple of {self.spec.downsampling}; pad them with 0"
            )
        convolution = functools.partial(
            nn.Conv, self.spec.width, (WINDOW,), padding=((1, 1),), dtype=self.dtype, param_dtype=self.param_dtype
        )
        x = constrain(jnp.asarray(frames), FRAMES)
        for index, stride in enumerate(self.spec.strides, start=1):
            x = layers.GELU["exact"](convolution(strides=stride, name=f"conv{index}")(x))
            x = constrain(x, FRAMES)
        return constrain(x, ("batch", "length", "embed"))


class Recogniser(Seq2Seq):
    """Spectrograms and token ids to logits; with `ctc`, also CTC logits of the encoder (Graves et al., 2006)."""

    spec: RecogniserSpec  # pyright: ignore[reportIncompatibleVariableOverride]  # modules are frozen
    ctc: bool = False
    spec_class: ClassVar[type[Spec]] = RecogniserSpec

    @property
    def logical_axes(self) -> Table:
        """From parameter path to logical axes."""
        return (*LOGICAL_AXES, *super().logical_axes)

    def setup(self) -> None:
        super().setup()
        self.front_end = FrontEnd(self.spec, self.dtype, self.param_dtype)
        if self.ctc:
            init = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")
            self.ctc_head = self.param("ctc_head", init, (self.spec.width, self.vocab_size), self.param_dtype)

    def embed_source(
        self, source: Float[AnyArray, "batch frames mels"], segments: Int[AnyArray, "batch source"], train: bool = False
    ) -> Float[Array, "batch source embed"]:
        """The output of the front end for spectrograms [batch, frames, mels]."""
        return self.front_end(source, train)

    def ctc_logits(self, encoded: Float[Array, "batch source embed"]) -> Float[Array, "batch source vocab"]:
        """CTC logits [batch, length, vocab] in float32 for each position of `encoded`; token 0 is the blank."""
        dtype = layers.at_least_float32(self.dtype)
        kernel = self.ctc_head.astype(encoded.dtype)
        logits = dot(encoded, kernel, dtype)
        return constrain(logits, ("batch", "length", "vocab"))

    def both_logits(
        self,
        source: Float[AnyArray, "batch frames mels"],
        source_segments: Int[AnyArray, "batch source"],
        source_positions: Int[AnyArray, "batch source"],
        target_in: Int[AnyArray, "batch target"],
        target_segments: Int[AnyArray, "batch target"],
        target_positions: Int[AnyArray, "batch target"],
        train: bool = False,
    ) -> tuple[Float[Array, "batch target vocab"], Float[Array, "batch source vocab"]]:
        """The decoder's logits (as `__call__`) and `ctc_logits`, with one pass through the encoder."""
        encoded = self.encode(source, source_segments, source_positions, train)
        decoded = self.decode(encoded, source_segments, target_in, target_segments, target_positions, train)
        return decoded, self.ctc_logits(encoded)
