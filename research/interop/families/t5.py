"""T5, T5 v1.1 and mT5 of transformers: `T5ForConditionalGeneration`, `MT5ForConditionalGeneration`."""

import functools
from collections.abc import Iterable, Mapping
from typing import Any

from research.interop.family import Family, flag, number, require, require_theirs, size
from research.interop.layouts import FROM_HEADS, LINEAR, Row
from research.interop.safetensors import TensorSpec
from research.models.seq2seq import Seq2Seq

_ENCODER, _DECODER = "encoder.block.{layer}.layer", "decoder.block.{layer}.layer"
_FIRST = "block.0.layer.0.SelfAttention.relative_attention_bias.weight"  # the others share it


def _attention(ours: str, theirs: str) -> list[Row]:
    inputs = [Row(f"{ours}/{name}/kernel", f"{theirs}.{name[0]}.weight", LINEAR) for name in ("query", "key", "value")]
    return [*inputs, Row(f"{ours}/out/kernel", f"{theirs}.o.weight", FROM_HEADS)]


def _mlp(ours: str, theirs: str, gated: bool) -> list[Row]:
    """The rows of an MLP; in a gated one, the activation follows their first layer."""
    up = {"gate": "wi_0", "up": "wi_1"} if gated else {"up": "wi"}
    rows = [Row(f"{ours}/{name}/kernel", f"{theirs}.{layer}.weight", LINEAR) for name, layer in up.items()]
    return [*rows, Row(f"{ours}/down/kernel", f"{theirs}.wo.weight", LINEAR)]


def table(model: Seq2Seq) -> list[Row]:
    """See `Family`."""
    return [
        Row("embedding", "shared.weight"),
        Row("encoder/relative", f"encoder.{_FIRST}"),
        *_attention("encoder/blocks/attention", f"{_ENCODER}.0.SelfAttention"),
        Row("encoder/blocks/attention_norm/scale", f"{_ENCODER}.0.layer_norm.weight"),
        *_mlp("encoder/blocks/mlp", f"{_ENCODER}.1.DenseReluDense", model.spec.gated),
        Row("encoder/blocks/mlp_norm/scale", f"{_ENCODER}.1.layer_norm.weight"),
        Row("encoder/norm/scale", "encoder.final_layer_norm.weight"),
        Row("decoder/relative", f"decoder.{_FIRST}"),
        *_attention("decoder/blocks/attention", f"{_DECODER}.0.SelfAttention"),
        Row("decoder/blocks/attention_norm/scale", f"{_DECODER}.0.layer_norm.weight"),
        *_attention("decoder/blocks/cross_attention", f"{_DECODER}.1.EncDecAttention"),
        Row("decoder/blocks/cross_attention_norm/scale", f"{_DECODER}.1.layer_norm.weight"),
        *_mlp("decoder/blocks/mlp", f"{_DECODER}.2.DenseReluDense", model.spec.gated),
        Row("decoder/blocks/mlp_norm/scale", f"{_DECODER}.2.layer_norm.weight"),
        Row("decoder/norm/scale", "decoder.final_layer_norm.weight"),
        Row("head", "lm_head.weight", LINEAR),
    ]


# Their `feed_forward_proj` -> whether our MLP is gated, and its activation. "gated-gelu" means the tanh approximation.
_MLPS = {
    "gated-gelu": (True, "gelu_tanh"), "gated-gelu_new": (True, "gelu_tanh"), "gated-relu": (True, "relu"),
    "relu": (False, "relu"), "gelu_new": (False, "gelu_tanh"), "gelu": (False, "gelu_exact"),
}  # fmt: skip


def fields(config: Mapping[str, Any], specs: Mapping[str, TensorSpec]) -> dict[str, Any]:
    """See `Family`."""
    width, kv_dim, mlp_dim, heads = (size(config, field) for field in ("d_model", "d_kv", "d_ff", "num_heads"))
    depth = size(config, "num_layers")
    require_theirs(
        config, feed_forward_proj=_MLPS, hidden_size=(width,), head_dim=(kv_dim,), num_attention_heads=(heads,),
        num_hidden_layers=(depth,), pad_token_id=(0,), eos_token_id=(1, [1]), is_encoder_decoder=(True,),
    )  # fmt: skip
    projection = config.get("feed_forward_proj", "relu")
    gated, activation = _MLPS[projection]
    # Fields that may repeat what `feed_forward_proj` defines; if present, transformers uses them.
    name = "gelu_new" if projection == "gated-gelu" else projection.removeprefix("gated-")
    require_theirs(config, is_gated_act=(gated,), dense_act_fn=(name,))
    buckets = size(config, "relative_attention_num_buckets", 32, least=4)
    distance = size(config, "relative_attention_max_distance", 128)
    if distance <= buckets // 2:
        raise ValueError(
            f"config.json has relative_attention_max_distance={distance}, which is not supported; with "
            f"relative_attention_num_buckets={buckets} it must be more than {buckets // 2}"
        )
    vocab_size = size(config, "vocab_size")
    rows = specs["shared.weight"].shape if "shared.weight" in specs else ()
    return {
        "vocab_size": rows[0] if rows else vocab_size,
        "width": width,
        "encoder_depth": depth,
        "decoder_depth": size(config, "num_decoder_layers", depth),
        "num_heads": heads,
        "kv_dim": kv_dim,
        "mlp_dim": mlp_dim,
        "norm_epsilon": number(config, "layer_norm_epsilon", 1e-6),
        "activation": activation,
        "gated": gated,
        "relative_buckets": buckets,
        "relative_distance": distance,
        "logits": _logits(config, "lm_head.weight" in specs),
    }


def _logits(config: Mapping[str, Any], has_head: bool) -> str:
    """How logits are computed: T5 1.0 ties them to the embeddings and scales them; T5 v1.1 and mT5 do neither.

    A file with tied weights may hold a copy of them as a head. transformers 5 writes `tie_word_embeddings` for all
    models, which are then distinguished by `scale_decoder_outputs`.
    """
    tied = flag(config, "tie_word_embeddings", True)
    # mT5 ignores this field.
    if config["model_type"] == "t5" and flag(config, "scale_decoder_outputs", tied):
        return "tied_scaled"
    return "untied" if has_head or not tied else "tied"


def config(model: Seq2Seq, model_type: str = "t5") -> dict[str, Any]:
    """See `Family`."""
    spec = model.spec
    require(
        model, "T5", norm=("rms",), norm_position=("pre",), bias=(False,), attention_scale=(False,),
        encoder_positions=("relative",), decoder_positions=("relative",), embedding_scale=(False,),
        copy_mechanism=(False,), share_layers=(False,), sentence_length=(0,),
    )  # fmt: skip
    if model_type == "mt5":
        require(model, "mT5", logits=("untied", "tied"))
    mlp = (spec.gated, spec.activation)
    if mlp not in _MLPS.values():
        raise ValueError(
            f"config.model.activation={spec.activation!r} with gated={spec.gated} cannot be exported: T5 has none"
        )
    return {
        "architectures": [f"{model_type.upper()}ForConditionalGeneration"],
        "model_type": model_type,
        "vocab_size": model.vocab_size,
        "d_model": spec.width,
        "d_kv": spec.kv_dim,
        "d_ff": spec.mlp_dim,
        "num_layers": spec.encoder_depth,
        "num_decoder_layers": spec.decoder_depth,
        "num_heads": spec.num_heads,
        "relative_attention_num_buckets": spec.relative_buckets,
        "relative_attention_max_distance": spec.relative_distance,
        "layer_norm_epsilon": spec.norm_epsilon,
        "feed_forward_proj": next(theirs for theirs, ours in _MLPS.items() if ours == mlp),
        "is_encoder_decoder": True,
        "tie_word_embeddings": spec.logits != "untied",
        "scale_decoder_outputs": spec.logits == "tied_scaled",
    }


def names(found: Iterable[str]) -> dict[str, str]:
    """See `Family`; the shared embeddings may be stored only under the names of the encoder's or decoder's."""
    found = dict.fromkeys(found)
    shared = next((f"{name}.weight" for name in ("shared", "encoder.embed_tokens") if f"{name}.weight" in found), None)
    return {name: name for name in found} | ({"shared.weight": shared} if shared else {})


_UNUSED = r"(encoder|decoder)\.embed_tokens\.weight|.*EncDecAttention\.relative_attention_bias\.weight"
_SHARED = (fields, config, table, names, _UNUSED)
FAMILY = Family("t5", Seq2Seq, "translation", *_SHARED)
MT5 = Family("mt5", Seq2Seq, "translation", fields, functools.partial(config, model_type="mt5"), table, names, _UNUSED)
