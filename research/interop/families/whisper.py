"""Whisper of transformers: `WhisperForConditionalGeneration`, and `WhisperModel`, without the prefix of names."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from research.interop.family import Family, require, require_theirs, size, with_prefix
from research.interop.layouts import CONV1D, FLAT, FROM_HEADS, LINEAR, Row, TensorSource
from research.interop.safetensors import TensorSpec
from research.models import positions
from research.models.speech import Recogniser

_ENCODER, _DECODER = "model.encoder.layers.{layer}", "model.decoder.layers.{layer}"
_SINUSOIDS = "model.encoder.embed_positions.weight"
_STRIDES = (1, 2)
_ROUNDING = 5e-3  # tolerance for sinusoids that were stored in bfloat16


def _attention(ours: str, theirs: str) -> list[Row]:
    """The rows of an attention, whose keys have no bias."""
    rows = []
    for name in ("query", "key", "value"):
        there = f"{theirs}.{name[0]}_proj"
        rows += [
            Row(f"{ours}/{name}/kernel", f"{there}.weight", LINEAR),
            Row(f"{ours}/{name}/bias", f"{there}.bias", FLAT),
        ]
    return [
        *rows,
        Row(f"{ours}/out/kernel", f"{theirs}.out_proj.weight", FROM_HEADS),
        Row(f"{ours}/out/bias", f"{theirs}.out_proj.bias"),
    ]


def _mlp(ours: str, theirs: str) -> list[Row]:
    return [
        Row(f"{ours}/up/kernel", f"{theirs}.fc1.weight", LINEAR),
        Row(f"{ours}/up/bias", f"{theirs}.fc1.bias"),
        Row(f"{ours}/down/kernel", f"{theirs}.fc2.weight", LINEAR),
        Row(f"{ours}/down/bias", f"{theirs}.fc2.bias"),
    ]


def _norm(ours: str, theirs: str) -> list[Row]:
    return [Row(f"{ours}/scale", f"{theirs}.weight"), Row(f"{ours}/bias", f"{theirs}.bias")]


def table(model: Recogniser) -> list[Row]:
    """See `Family`."""
    return [
        Row("front_end/conv1/kernel", "model.encoder.conv1.weight", CONV1D),
        Row("front_end/conv1/bias", "model.encoder.conv1.bias"),
        Row("front_end/conv2/kernel", "model.encoder.conv2.weight", CONV1D),
        Row("front_end/conv2/bias", "model.encoder.conv2.bias"),
        Row("encoder/learned", _SINUSOIDS),  # if they are not sinusoids
        *_attention("encoder/blocks/attention", f"{_ENCODER}.self_attn"),
        *_norm("encoder/blocks/attention_norm", f"{_ENCODER}.self_attn_layer_norm"),
        *_mlp("encoder/blocks/mlp", _ENCODER),
        *_norm("encoder/blocks/mlp_norm", f"{_ENCODER}.final_layer_norm"),
        *_norm("encoder/norm", "model.encoder.layer_norm"),
        Row("embedding", "model.decoder.embed_tokens.weight"),
        Row("decoder/learned", "model.decoder.embed_positions.weight"),
        *_attention("decoder/blocks/attention", f"{_DECODER}.self_attn"),
        *_norm("decoder/blocks/attention_norm", f"{_DECODER}.self_attn_layer_norm"),
        *_attention("decoder/blocks/cross_attention", f"{_DECODER}.encoder_attn"),
        *_norm("decoder/blocks/cross_attention_norm", f"{_DECODER}.encoder_attn_layer_norm"),
        *_mlp("decoder/blocks/mlp", _DECODER),
        *_norm("decoder/blocks/mlp_norm", f"{_DECODER}.final_layer_norm"),
        *_norm("decoder/norm", "model.decoder.layer_norm"),
    ]


_ACTIVATIONS = {"gelu": "gelu_exact", "gelu_new": "gelu_tanh", "relu": "relu"}  # theirs -> ours


def fields(config: Mapping[str, Any], specs: Mapping[str, TensorSpec]) -> dict[str, Any]:
    """See `Family`."""
    width, heads, mlp_dim = (size(config, f) for f in ("d_model", "encoder_attention_heads", "encoder_ffn_dim"))
    depth, decoder_depth, vocab_size = (size(config, f) for f in ("encoder_layers", "decoder_layers", "vocab_size"))
    require_theirs(
        config, activation_function=_ACTIVATIONS, scale_embedding=(False,), tie_word_embeddings=(True,),
        decoder_attention_heads=(heads,), decoder_ffn_dim=(mlp_dim,), hidden_size=(width,),
        num_hidden_layers=(depth,), num_attention_heads=(heads,), is_encoder_decoder=(True,),
    )  # fmt: skip
    if width % heads:
        raise ValueError(f"config.json has d_model={width}, which must be divisible by encoder_attention_heads={heads}")
    conv = specs.get("model.encoder.conv1.weight")
    if conv and len(conv.shape) == 3:
        require_theirs(config, num_mel_bins=(conv.shape[1],))
    rows = lambda name, otherwise: specs[name].shape[0] if name in specs and specs[name].shape else otherwise
    return {
        "vocab_size": rows("model.decoder.embed_tokens.weight", vocab_size),
        "strides": _STRIDES,
        "width": width,
        "encoder_depth": depth,
        "decoder_depth": decoder_depth,
        "num_heads": heads,
        "kv_dim": width // heads,
        "mlp_dim": mlp_dim,
        "norm": "layer",
        "norm_epsilon": 1e-5,
        "activation": _ACTIVATIONS[config.get("activation_function", "gelu")],
        "gated": False,
        "bias": True,
        "key_bias": False,
        "attention_scale": True,
        "encoder_positions": "sinusoidal",
        "decoder_positions": "learned",
        "max_source_length": rows(_SINUSOIDS, size(config, "max_source_positions", 1500)),
        "max_target_length": rows("model.decoder.embed_positions.weight", size(config, "max_target_positions", 448)),
        "logits": "tied",
    }


def settle(fields: Mapping[str, Any], tensors: TensorSource) -> dict[str, Any]:
    """See `Family`; whether the encoder's positions are sinusoids or were trained, which only their values show."""
    shape = (fields["max_source_length"], fields["width"])
    if _SINUSOIDS not in tensors.specs:
        return {}
    if tensors.specs[_SINUSOIDS].shape == shape:
        theirs = tensors.read(_SINUSOIDS).astype(np.float32)
        if np.abs(theirs - _sinusoids(*shape)).max() <= _ROUNDING:
            return {}
    return {"encoder_positions": "learned"}


def computed(model: Recogniser) -> dict[str, np.ndarray]:
    """See `Family`; the sinusoids, which transformers stores."""
    if model.spec.encoder_positions != "sinusoidal":
        return {}
    return {_SINUSOIDS: _sinusoids(model.max_source_length, model.spec.width)}


def _sinusoids(length: int, width: int) -> np.ndarray:
    return np.asarray(positions.sinusoids(jnp.arange(length), width, jnp.float32))


def config(model: Recogniser) -> dict[str, Any]:
    """See `Family`."""
    spec = model.spec
    require(
        model, "Whisper", norm=("layer",), norm_epsilon=(1e-5,), norm_position=("pre",), gated=(False,), bias=(True,),
        key_bias=(False,), attention_scale=(True,), encoder_positions=("sinusoidal", "learned"),
        decoder_positions=("learned",), embedding_scale=(False,), logits=("tied",), share_layers=(False,),
        kv_dim=(spec.width // spec.num_heads,), activation=_ACTIVATIONS.values(),
    )  # fmt: skip
    if spec.strides != _STRIDES:
        raise ValueError(f"config.model.strides={spec.strides} cannot be exported: Whisper has {_STRIDES}")
    return {
        "architectures": ["WhisperForConditionalGeneration"],
        "model_type": "whisper",
        "vocab_size": model.vocab_size,
        "d_model": spec.width,
        "encoder_layers": spec.encoder_depth,
        "decoder_layers": spec.decoder_depth,
        "encoder_attention_heads": spec.num_heads,
        "decoder_attention_heads": spec.num_heads,
        "encoder_ffn_dim": spec.mlp_dim,
        "decoder_ffn_dim": spec.mlp_dim,
        "activation_function": next(theirs for theirs, ours in _ACTIVATIONS.items() if ours == spec.activation),
        "max_source_positions": model.max_source_length,
        "max_target_positions": model.max_target_length,
        "is_encoder_decoder": True,
        "scale_embedding": False,
        "tie_word_embeddings": True,
        "suppress_tokens": None,
        "begin_suppress_tokens": None,
    }


def sizes(specs: Mapping[str, TensorSpec]) -> dict[str, Any]:
    """See `Family`."""
    return {"num_mel_bins": specs["model.encoder.conv1.weight"].shape[1]}


FAMILY = Family(
    "whisper", Recogniser, "speech_recognition", fields, config, table, with_prefix("model.", "proj_out"),
    unused=rf"proj_out\.weight|{_SINUSOIDS}", left_out="ctc_head", settle=settle, computed=computed, sizes=sizes,
)  # fmt: skip
