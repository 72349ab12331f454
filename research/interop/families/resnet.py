"""ResNet v1.5 of transformers: `ResNetForImageClassification` and, without a head, `ResNetModel`."""

from collections.abc import Iterator, Mapping
from typing import Any

from research.interop.family import (
    Family,
    labels,
    num_classes,
    require,
    require_theirs,
    size,
    sizes,
    with_prefix,
)  # fmt: skip
from research.interop.layouts import CONV, LINEAR, Row
from research.interop.safetensors import TensorSpec
from research.models.resnet import BLOCKS, ResNet

_CONVOLUTIONS = {"basic": 2, "bottleneck": 3}  # of a block


def _unit(conv: str, norm: str, theirs: str) -> Iterator[Row]:
    """The rows of a convolution and its batch norm, which are one module in transformers."""
    yield Row(f"{conv}/kernel", f"{theirs}.convolution.weight", CONV)
    yield Row(f"{norm}/scale", f"{theirs}.normalization.weight")
    yield Row(f"{norm}/bias", f"{theirs}.normalization.bias")
    yield Row(f"{norm}/mean", f"{theirs}.normalization.running_mean")
    yield Row(f"{norm}/var", f"{theirs}.normalization.running_var")


def table(model: ResNet) -> list[Row]:
    """See `Family`."""
    rows = [*_unit("conv1", "norm1", "resnet.embedder.embedder")]
    for stage, blocks in enumerate(model.spec.stage_sizes):
        for block in range(blocks):
            ours, theirs = f"stage{stage + 1}_block{block + 1}", f"resnet.encoder.stages.{stage}.layers.{block}"
            rows += _unit(f"{ours}/shortcut_conv", f"{ours}/shortcut_norm", f"{theirs}.shortcut")
            for index in range(_CONVOLUTIONS[model.spec.block]):
                rows += _unit(f"{ours}/conv{index + 1}", f"{ours}/norm{index + 1}", f"{theirs}.layer.{index}")
    return [*rows, Row("head/kernel", "classifier.1.weight", LINEAR), Row("head/bias", "classifier.1.bias")]


def fields(config: Mapping[str, Any], specs: Mapping[str, TensorSpec]) -> dict[str, Any]:
    """See `Family`."""
    require_theirs(
        config, layer_type=BLOCKS, hidden_act=("relu",), downsample_in_first_stage=(False,),
        downsample_in_bottleneck=(False,),
    )  # fmt: skip
    depths, widths, width = sizes(config, "depths"), sizes(config, "hidden_sizes"), size(config, "embedding_size")
    block = config.get("layer_type", "bottleneck")
    expected = [width * 2**stage * BLOCKS[block].expansion for stage in range(len(depths))]
    if list(widths) != expected:
        raise ValueError(
            f"config.json has hidden_sizes={list(widths)}, which is not supported; with embedding_size={width} and "
            f"layer_type={block!r} only {expected} is"
        )
    return {
        "num_classes": num_classes(config, specs, "classifier.1.weight"),
        "stage_sizes": depths,
        "block": block,
        "width": width,
    }


def config(model: ResNet) -> dict[str, Any]:
    """See `Family`."""
    require(model, "ResNet in transformers", stem=("imagenet",), epsilon=(1e-5,))
    stages = range(len(model.spec.stage_sizes))
    return {
        "architectures": ["ResNetForImageClassification"],
        "model_type": "resnet",
        "embedding_size": model.spec.width,
        "hidden_sizes": [model.spec.width * 2**stage * BLOCKS[model.spec.block].expansion for stage in stages],
        "depths": list(model.spec.stage_sizes),
        "layer_type": model.spec.block,
        "hidden_act": "relu",
        "downsample_in_first_stage": False,
        "downsample_in_bottleneck": False,
        **labels(model.num_classes),
    }


FAMILY = Family(
    "resnet", ResNet, "image_classification", fields, config, table, with_prefix("resnet.", "classifier"),
    unused=r".*\.num_batches_tracked",
)  # fmt: skip
