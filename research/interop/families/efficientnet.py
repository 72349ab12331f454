"""EfficientNet-Lite of timm (`efficientnet_lite0`, `tf_efficientnet_lite0`, ...) and of EfficientNet-PyTorch.

The weights that Google published were trained with TensorFlow: strided convolutions are padded after the image, and
the epsilon of batch norm is 1e-3. timm calls their copies `tf_efficientnet_lite`; what it trained itself is padded on
both sides, with an epsilon of 1e-5. EfficientNet-PyTorch (its modules begin with an underscore) knows the former only,
and has no config.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from research.interop.family import Family, require, require_theirs, size
from research.interop.layouts import CONV, LINEAR, Row
from research.interop.safetensors import TensorSpec
from research.models.efficientnet import HEAD, SIZES, EfficientNet, EfficientNetSpec

ARCHITECTURE = re.compile(r"(tf_)?efficientnet_(lite[0-4])")
OF_PYTORCH = "_conv_stem.weight"  # a tensor of EfficientNet-PyTorch
_TENSORFLOW, _TIMM = {"padding": "same", "epsilon": 1e-3}, {"padding": "symmetric", "epsilon": 1e-5}
_DEFAULT = EfficientNetSpec()
# Our module of a block -> timm's convolution and batch norm; blocks of the first stage have no `expand`.
_FIRST = {"depthwise": ("conv_dw", "bn1"), "project": ("conv_pw", "bn2")}
_LATER = {"expand": ("conv_pw", "bn1"), "depthwise": ("conv_dw", "bn2"), "project": ("conv_pwl", "bn3")}
# timm's module of a block -> that of EfficientNet-PyTorch.
_PYTORCH = {
    "expand": ("_expand_conv", "_bn0"),
    "depthwise": ("_depthwise_conv", "_bn1"),
    "project": ("_project_conv", "_bn2"),
}
_PYTORCH_ENDS = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}


def _unit(kernel: str, norm: str, conv: str, bn: str) -> Iterator[Row]:
    yield Row(f"{kernel}/kernel", f"{conv}.weight", CONV)
    yield Row(f"{norm}/scale", f"{bn}.weight")
    yield Row(f"{norm}/bias", f"{bn}.bias")
    yield Row(f"{norm}/mean", f"{bn}.running_mean")
    yield Row(f"{norm}/var", f"{bn}.running_var")


def table(model: EfficientNet) -> list[Row]:
    """See `Family`; timm's names."""
    rows = [*_unit("conv1", "norm1", "conv_stem", "bn1"), *_unit("head_conv", "head_norm", "conv_head", "bn2")]
    for stage, blocks in enumerate(model.spec.stage_sizes):
        for block in range(blocks):
            ours, theirs = f"stage{stage + 1}_block{block + 1}", f"blocks.{stage}.{block}"
            for part, (conv, bn) in (_LATER if stage else _FIRST).items():
                kernel = part if part == "depthwise" else f"{part}_conv"
                rows += _unit(f"{ours}/{kernel}", f"{ours}/{part}_norm", f"{theirs}.{conv}", f"{theirs}.{bn}")
    return [*rows, Row("head/kernel", "classifier.weight", LINEAR), Row("head/bias", "classifier.bias")]


def names(found: Mapping[str, TensorSpec]) -> dict[str, str]:
    """See `Family`; EfficientNet-PyTorch numbers blocks across stages, and a stage ends where their width changes."""
    if OF_PYTORCH not in found:
        return {name: name for name in found}
    modules = dict(_PYTORCH_ENDS)
    stage, block, width = -1, 0, 0
    for index in range(len(found)):
        last = found.get(f"_blocks.{index}._project_conv.weight")
        if last is None or not last.shape:
            break
        stage, block = (stage, block + 1) if last.shape[0] == width else (stage + 1, 0)
        width = last.shape[0]
        for part, timm in (_LATER if stage else _FIRST).items():
            for there, here in zip(_PYTORCH[part], timm, strict=True):
                modules[f"_blocks.{index}.{there}"] = f"blocks.{stage}.{block}.{here}"
    renamed = {}
    for name in found:
        module, _, leaf = name.rpartition(".")
        renamed[f"{modules[module]}.{leaf}" if module in modules else name] = name
    return renamed


def fields(config: Mapping[str, Any], specs: Mapping[str, TensorSpec]) -> dict[str, Any]:
    """See `Family`; an empty config is that of EfficientNet-PyTorch."""
    require_theirs(config, global_pool=("avg", None))
    if other := next((name for name in specs if re.search(r"\.se\.|\._se_", name)), None):
        raise ValueError(f"{other}: squeeze-and-excite is not supported; use an EfficientNet-Lite, which has none")
    stage_sizes, widths, kernel_sizes = [], [], []
    while (depthwise := specs.get(f"blocks.{len(widths)}.0.conv_dw.weight")) is not None:
        stage = f"blocks.{len(widths)}"
        last = specs.get(f"{stage}.0.{'conv_pwl' if widths else 'conv_pw'}.weight")
        if last is None or len(last.shape) != 4 or len(depthwise.shape) != 4:
            raise ValueError(f"{stage}.0 lacks its convolutions, or one does not have 4 axes; copy the file again")
        stage_sizes.append(next(n for n in range(1, len(specs) + 1) if f"{stage}.{n}.conv_dw.weight" not in specs))
        widths.append(last.shape[0])
        kernel_sizes.append(depthwise.shape[-1])
    if tuple(kernel_sizes) != _DEFAULT.kernel_sizes:
        raise ValueError(
            f"the stages have kernels of {kernel_sizes} px, which is not supported; those of an EfficientNet-Lite are "
            f"{list(_DEFAULT.kernel_sizes)}"
        )
    architecture = str(config.get("architecture", ""))
    head = specs.get("classifier.weight")
    classes = head.shape[0] if head is not None and head.shape else size(config, "num_classes", 1000)
    return {
        "num_classes": classes,
        "stage_sizes": tuple(stage_sizes),
        "widths": tuple(widths),
        **(_TIMM if architecture and not architecture.startswith("tf_") else _TENSORFLOW),
    }


def config(model: EfficientNet) -> dict[str, Any]:
    """See `Family`; timm's."""
    spec, kind = model.spec, "EfficientNet-Lite in timm"
    require(model, kind, kernel_sizes=(_DEFAULT.kernel_sizes,), stage_strides=(_DEFAULT.stage_strides,))
    sizes = {name: (each["stage_sizes"], each["widths"]) for name, each in SIZES.items()}
    name = next((name for name, each in sizes.items() if each == (spec.stage_sizes, spec.widths)), None)
    if name is None:
        require(model, kind, stage_sizes=[each[0] for each in sizes.values()])
        raise ValueError(f"config.model.widths={spec.widths} cannot be exported: {kind} has no model of that size")
    is_timm = spec.padding == _TIMM["padding"]
    require(model, f"{kind} with padding={spec.padding!r}", epsilon=((_TIMM if is_timm else _TENSORFLOW)["epsilon"],))
    return {
        "architecture": f"{'' if is_timm else 'tf_'}efficientnet_{name}",
        "num_classes": model.num_classes,
        "num_features": HEAD,
    }


FAMILY = Family(
    "efficientnet_lite", EfficientNet, "image_classification", fields, config, table, names,
    unused=r".*\.num_batches_tracked",
)  # fmt: skip
