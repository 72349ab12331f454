"""ConvNeXt of transformers: `ConvNextForImageClassification` and, without a head, `ConvNextModel`."""

from collections.abc import Mapping
from typing import Any

from research.interop.families.vit import GELU
from research.interop.family import (
    Family,
    labels,
    num_classes,
    number,
    require,
    require_theirs,
    sizes,
    with_prefix,
)  # fmt: skip
from research.interop.layouts import CONV, LINEAR, Row
from research.interop.safetensors import TensorSpec
from research.models.convnext import ConvNeXt


def table(model: ConvNeXt) -> list[Row]:
    """See `Family`."""
    rows = [
        Row("stem/kernel", "convnext.embeddings.patch_embeddings.weight", CONV),
        Row("stem/bias", "convnext.embeddings.patch_embeddings.bias"),
        Row("stem_norm/scale", "convnext.embeddings.layernorm.weight"),
        Row("stem_norm/bias", "convnext.embeddings.layernorm.bias"),
    ]
    for stage, blocks in enumerate(model.spec.stage_sizes):
        theirs = f"convnext.encoder.stages.{stage}"
        if stage:
            rows += [
                Row(f"downsample_norm{stage}/scale", f"{theirs}.downsampling_layer.0.weight"),
                Row(f"downsample_norm{stage}/bias", f"{theirs}.downsampling_layer.0.bias"),
                Row(f"downsample{stage}/kernel", f"{theirs}.downsampling_layer.1.weight", CONV),
                Row(f"downsample{stage}/bias", f"{theirs}.downsampling_layer.1.bias"),
            ]
        for index in range(blocks):
            rows += _block(f"stage{stage + 1}_block{index + 1}", f"{theirs}.layers.{index}")
    return [
        *rows,
        Row("norm/scale", "convnext.layernorm.weight"),
        Row("norm/bias", "convnext.layernorm.bias"),
        Row("head/kernel", "classifier.weight", LINEAR),
        Row("head/bias", "classifier.bias"),
    ]


def _block(ours: str, theirs: str) -> list[Row]:
    return [
        Row(f"{ours}/depthwise/kernel", f"{theirs}.dwconv.weight", CONV),
        Row(f"{ours}/depthwise/bias", f"{theirs}.dwconv.bias"),
        Row(f"{ours}/norm/scale", f"{theirs}.layernorm.weight"),
        Row(f"{ours}/norm/bias", f"{theirs}.layernorm.bias"),
        Row(f"{ours}/up/kernel", f"{theirs}.pwconv1.weight", LINEAR),
        Row(f"{ours}/up/bias", f"{theirs}.pwconv1.bias"),
        Row(f"{ours}/down/kernel", f"{theirs}.pwconv2.weight", LINEAR),
        Row(f"{ours}/down/bias", f"{theirs}.pwconv2.bias"),
        Row(f"{ours}/layer_scale", f"{theirs}.layer_scale_parameter"),
    ]


def fields(config: Mapping[str, Any], specs: Mapping[str, TensorSpec]) -> dict[str, Any]:
    """See `Family`."""
    require_theirs(config, hidden_act=GELU, patch_size=(4,))
    depths, widths = sizes(config, "depths"), sizes(config, "hidden_sizes")
    require_theirs(config, num_stages=(len(depths),))
    if len(widths) != len(depths):
        raise ValueError(f"config.json has {len(depths)} depths and {len(widths)} hidden_sizes; these must be equal")
    return {
        "num_classes": num_classes(config, specs, "classifier.weight"),
        "stage_sizes": depths,
        "widths": widths,
        "layer_scale": number(config, "layer_scale_init_value", 1e-6, most=1e6),
        "last_epsilon": number(config, "layer_norm_eps", 1e-12),
        "gelu": GELU[config.get("hidden_act", "gelu")],
    }


def config(model: ConvNeXt) -> dict[str, Any]:
    """See `Family`."""
    require(model, "ConvNeXt in transformers", epsilon=(1e-6,))
    return {
        "architectures": ["ConvNextForImageClassification"],
        "model_type": "convnext",
        "num_stages": len(model.spec.stage_sizes),
        "depths": list(model.spec.stage_sizes),
        "hidden_sizes": list(model.spec.widths),
        "patch_size": 4,
        "layer_scale_init_value": model.spec.layer_scale,
        "layer_norm_eps": model.spec.last_epsilon,
        "hidden_act": next(theirs for theirs, ours in GELU.items() if ours == model.spec.gelu),
        "drop_path_rate": 0.0,
        **labels(model.num_classes),
    }


FAMILY = Family(
    "convnext", ConvNeXt, "image_classification", fields, config, table, with_prefix("convnext.", "classifier")
)
