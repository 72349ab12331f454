"""DINOv2 of transformers, with and without registers: `...ForImageClassification` and, without a head, `...Model`.

The head takes the class token and the mean of the patches, side by side. A checkpoint without a head gets a new one.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from research.interop.families.vit import GELU, PLAIN
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


def _table(prefix: str) -> Callable[[ViT], list[Row]]:
    embeddings, layer = f"{prefix}.embeddings", f"{prefix}.encoder.layer.{{layer}}"
    rows = [
        Row("patches/kernel", f"{embeddings}.patch_embeddings.projection.weight", CONV),
        Row("patches/bias", f"{embeddings}.patch_embeddings.projection.bias"),
        Row("cls", f"{embeddings}.cls_token"),
        Row("positions", f"{embeddings}.position_embeddings"),
        Row("registers", f"{embeddings}.register_tokens"),
        Row("blocks/attention/out/kernel", f"{layer}.attention.output.dense.weight", FROM_HEADS),
        Row("blocks/attention/out/bias", f"{layer}.attention.output.dense.bias"),
        Row("norm/scale", f"{prefix}.layernorm.weight"),
        Row("norm/bias", f"{prefix}.layernorm.bias"),
        Row("head/kernel", "classifier.weight", LINEAR),
        Row("head/bias", "classifier.bias"),
    ]
    for name in ("query", "key", "value"):
        there = f"{layer}.attention.attention.{name}"
        rows.append(Row(f"blocks/attention/{name}/kernel", f"{there}.weight", LINEAR))
        rows.append(Row(f"blocks/attention/{name}/bias", f"{there}.bias", FLAT))
    for number_, part in enumerate(("attention", "mlp"), start=1):
        rows.append(Row(f"blocks/{part}_norm/scale", f"{layer}.norm{number_}.weight"))
        rows.append(Row(f"blocks/{part}_norm/bias", f"{layer}.norm{number_}.bias"))
        rows.append(Row(f"blocks/{part}_layer_scale/scale", f"{layer}.layer_scale{number_}.lambda1"))
    for name, there in (("up", "fc1"), ("down", "fc2")):
        rows.append(Row(f"blocks/mlp/{name}/kernel", f"{layer}.mlp.{there}.weight", LINEAR))
        rows.append(Row(f"blocks/mlp/{name}/bias", f"{layer}.mlp.{there}.bias"))
    return lambda model: rows


def _fields(config: Mapping[str, Any], specs: Mapping[str, TensorSpec]) -> dict[str, Any]:
    """See `Family`. The size of images is that of the positions, 518 px in published weights."""
    require_theirs(config, hidden_act=GELU, use_swiglu_ffn=(False,))
    width, ratio = size(config, "hidden_size", 768), number(config, "mlp_ratio", 4, most=1024)
    registers = size(config, "num_register_tokens", 4) if config["model_type"].endswith("registers") else 0
    return {
        "num_classes": num_classes(config, specs, "classifier.weight"),
        "image_size": size(config, "image_size", 224),
        "patch_size": size(config, "patch_size", 14),
        "width": width,
        "depth": size(config, "num_hidden_layers", 12),
        "num_heads": size(config, "num_attention_heads", 12),
        "mlp_dim": int(width * ratio),
        "layer_norm_epsilon": number(config, "layer_norm_eps", 1e-6),
        "gelu": GELU[config.get("hidden_act", "gelu")],
        "qkv_bias": flag(config, "qkv_bias", True),
        "pool": "cls_mean",
        "registers": registers,
        # Only whether it is 0 matters, as the trained values are loaded.
        "layer_scale": number(config, "layerscale_value", 1.0, most=100) or 1.0,
    }


def _config(kind: str, name: str) -> Callable[[ViT], dict[str, Any]]:
    def config(model: ViT) -> dict[str, Any]:
        spec = model.spec
        registers = (spec.registers,) if kind.endswith("registers") and spec.registers else (0,)
        if kind.endswith("registers") and not spec.registers:
            raise ValueError("config.model.registers=0 cannot be exported as dinov2_with_registers; use dinov2")
        if not spec.layer_scale:
            raise ValueError(f"config.model.layer_scale=0 cannot be exported: {name} in transformers has layer scale")
        own = {"pool": ("cls_mean",), "registers": registers, "layer_scale": (spec.layer_scale,)}
        require(model, f"{name} in transformers", **(PLAIN | own))
        if spec.mlp_dim % spec.width:
            raise ValueError(
                f"config.model.mlp_dim={spec.mlp_dim} cannot be exported: {name} in transformers supports only "
                f"multiples of width={spec.width}"
            )
        return {
            "architectures": [f"{name}ForImageClassification"],
            "model_type": kind,
            "image_size": spec.image_size,
            "patch_size": spec.patch_size,
            "hidden_size": spec.width,
            "num_hidden_layers": spec.depth,
            "num_attention_heads": spec.num_heads,
            "mlp_ratio": spec.mlp_dim // spec.width,
            "layer_norm_eps": spec.layer_norm_epsilon,
            "hidden_act": next(theirs for theirs, ours in GELU.items() if ours == spec.gelu),
            "qkv_bias": spec.qkv_bias,
            "layerscale_value": spec.layer_scale,
            "use_swiglu_ffn": False,
            **({"num_register_tokens": spec.registers} if spec.registers else {"use_mask_token": False}),
            **labels(model.num_classes),
        }

    return config


def _family(kind: str, name: str, has_mask: bool) -> Family[ViT]:
    """The token of masked patches, which is used in pre-training only, is written as zeros if theirs `has_mask`."""
    token = f"{kind}.embeddings.mask_token"
    masks = lambda model: {token: np.zeros((1, model.spec.width), np.float32)} if has_mask else {}
    return Family(
        kind, ViT, "image_classification", _fields, _config(kind, name), _table(kind),
        with_prefix(f"{kind}.", "classifier"), unused=re.escape(token), computed=masks,
    )  # fmt: skip


FAMILY = _family("dinov2", "Dinov2", has_mask=False)
WITH_REGISTERS = _family("dinov2_with_registers", "Dinov2WithRegisters", has_mask=True)
