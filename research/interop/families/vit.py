"""ViT of transformers: `ViTForImageClassification` and, without a head, `ViTModel`."""

from collections.abc import Mapping
from typing import Any

from research.interop.family import (
    Family,
    flag,
    labels,
    num_classes,
    number,
    require,
    require_theirs,
    size,
    with_prefix,
)  # fmt: skip
from research.interop.layouts import CONV, FLAT, FROM_HEADS, LINEAR, Row
from research.interop.safetensors import TensorSpec
from research.models.vit import ViT

_POSITIONS = "vit.embeddings.position_embeddings"
_BLOCK = "vit.encoder.layer.{layer}"
TABLE = [
    Row("patches/kernel", "vit.embeddings.patch_embeddings.projection.weight", CONV),
    Row("patches/bias", "vit.embeddings.patch_embeddings.projection.bias"),
    Row("cls", "vit.embeddings.cls_token"),
    Row("positions", _POSITIONS),
    Row("blocks/attention_norm/scale", f"{_BLOCK}.layernorm_before.weight"),
    Row("blocks/attention_norm/bias", f"{_BLOCK}.layernorm_before.bias"),
    Row("blocks/attention/query/kernel", f"{_BLOCK}.attention.attention.query.weight", LINEAR),
    Row("blocks/attention/query/bias", f"{_BLOCK}.attention.attention.query.bias", FLAT),
    Row("blocks/attention/key/kernel", f"{_BLOCK}.attention.attention.key.weight", LINEAR),
    Row("blocks/attention/key/bias", f"{_BLOCK}.attention.attention.key.bias", FLAT),
    Row("blocks/attention/value/kernel", f"{_BLOCK}.attention.attention.value.weight", LINEAR),
    Row("blocks/attention/value/bias", f"{_BLOCK}.attention.attention.value.bias", FLAT),
    Row("blocks/attention/out/kernel", f"{_BLOCK}.attention.output.dense.weight", FROM_HEADS),
    Row("blocks/attention/out/bias", f"{_BLOCK}.attention.output.dense.bias"),
    Row("blocks/mlp_norm/scale", f"{_BLOCK}.layernorm_after.weight"),
    Row("blocks/mlp_norm/bias", f"{_BLOCK}.layernorm_after.bias"),
    Row("blocks/mlp/up/kernel", f"{_BLOCK}.intermediate.dense.weight", LINEAR),
    Row("blocks/mlp/up/bias", f"{_BLOCK}.intermediate.dense.bias"),
    Row("blocks/mlp/down/kernel", f"{_BLOCK}.output.dense.weight", LINEAR),
    Row("blocks/mlp/down/bias", f"{_BLOCK}.output.dense.bias"),
    Row("norm/scale", "vit.layernorm.weight"),
    Row("norm/bias", "vit.layernorm.bias"),
    Row("head/kernel", "classifier.weight", LINEAR),
    Row("head/bias", "classifier.bias"),
]

GELU = {"gelu": "exact", "gelu_new": "tanh", "gelu_pytorch_tanh": "tanh", "quick_gelu": "quick"}  # theirs -> ours
# The fields of a ViT without the options of later work, for `require`.
PLAIN: dict[str, tuple[Any, ...]] = {
    "positions": ("learned",), "stem": ("patch",), "key_bias": (True,), "qk_norm": (False,), "norm": ("layer",),
    "parallel": (False,), "patch_bias": (True,), "first_norm": (False,), "registers": (0,), "layer_scale": (0.0,),
    "projection": (0,), "unit_features": (False,),
}  # fmt: skip


def fields(config: Mapping[str, Any], specs: Mapping[str, TensorSpec]) -> dict[str, Any]:
    """See `Family`."""
    width, depth, heads = (size(config, f) for f in ("hidden_size", "num_hidden_layers", "num_attention_heads"))
    mlp_dim, image_size, patch_size = (size(config, f) for f in ("intermediate_size", "image_size", "patch_size"))
    require_theirs(config, hidden_act=GELU, head_dim=(width // heads, None))
    rows = specs[_POSITIONS].shape[1:2] if _POSITIONS in specs else ()
    needed = (image_size // patch_size) ** 2 + 1
    if rows and rows[0] != needed:
        raise ValueError(
            f"config.json has image_size={image_size} and patch_size={patch_size}, which need {needed} positions with "
            f"the class token; {_POSITIONS} has {rows[0]}"
        )
    return {
        "num_classes": num_classes(config, specs, "classifier.weight"),
        "image_size": image_size,
        "patch_size": patch_size,
        "width": width,
        "depth": depth,
        "mlp_dim": mlp_dim,
        "num_heads": heads,
        "pool": "cls",
        "layer_norm_epsilon": number(config, "layer_norm_eps", 1e-12),
        "gelu": GELU[config.get("hidden_act", "gelu")],
        "qkv_bias": flag(config, "qkv_bias", True),
    }


def config(model: ViT) -> dict[str, Any]:
    """See `Family`."""
    require(model, "ViT in transformers", pool=("cls",), **PLAIN)
    return {
        "architectures": ["ViTForImageClassification"],
        "model_type": "vit",
        "image_size": model.spec.image_size,
        "patch_size": model.spec.patch_size,
        "hidden_size": model.spec.width,
        "num_hidden_layers": model.spec.depth,
        "intermediate_size": model.spec.mlp_dim,
        "num_attention_heads": model.spec.num_heads,
        "layer_norm_eps": model.spec.layer_norm_epsilon,
        "hidden_act": next(theirs for theirs, ours in GELU.items() if ours == model.spec.gelu),
        "qkv_bias": model.spec.qkv_bias,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        **labels(model.num_classes),
    }


FAMILY = Family(
    "vit", ViT, "image_classification", fields, config, lambda model: TABLE, with_prefix("vit.", "classifier"),
    unused=r"vit\.pooler\..*|vit\.embeddings\.mask_token",
)  # fmt: skip
