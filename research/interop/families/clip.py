"""The image towers of CLIP and SigLIP in transformers, alone or with a text tower (see text_towers.py)."""

import functools
from collections.abc import Iterable, Mapping
from typing import Any

from research.interop.families.vit import GELU, PLAIN
from research.interop.family import (
    Family,
    num_classes,
    number,
    require,
    require_theirs,
    size,
    with_prefix,
)  # fmt: skip
from research.interop.layouts import CONV, FLAT, FROM_HEADS, LINEAR, Layout, Row
from research.interop.safetensors import TensorSpec
from research.models.vit import ViT

_TOWER = "vision_model"
# Their [positions, width] is ours [1, positions, width].
WITH_BATCH = Layout(lambda theirs, shape: theirs[None], lambda ours: ours[0])
# Their kernels of query, key and value [3 * heads * kv, width] are ours [3, width, heads, kv].
INPUTS = Layout(
    lambda theirs, shape: theirs.reshape(3, -1, theirs.shape[-1]).swapaxes(1, 2).reshape(shape),
    lambda ours: ours.reshape(3, ours.shape[1], -1).swapaxes(1, 2).reshape(-1, ours.shape[1]),
)
# Fields of our specs of towers -> theirs, with the defaults of the image towers of both models.
_FIELDS = {
    "width": ("hidden_size", 768), "depth": ("num_hidden_layers", 12), "num_heads": ("num_attention_heads", 12),
    "mlp_dim": ("intermediate_size", 3072),
}  # fmt: skip


def norm(ours: str, theirs: str) -> list[Row]:
    """The rows of a layer norm."""
    return [Row(f"{ours}/scale", f"{theirs}.weight"), Row(f"{ours}/bias", f"{theirs}.bias")]


def blocks(ours: str, theirs: str) -> list[Row]:
    """The rows of the layers of a tower, which are the same for images and texts, and in both models."""
    layer = f"{theirs}.encoder.layers.{{layer}}"
    rows = norm(f"{ours}/attention_norm", f"{layer}.layer_norm1") + norm(f"{ours}/mlp_norm", f"{layer}.layer_norm2")
    for name in ("query", "key", "value"):
        there = f"{layer}.self_attn.{name[0]}_proj"
        rows.append(Row(f"{ours}/attention/{name}/kernel", f"{there}.weight", LINEAR))
        rows.append(Row(f"{ours}/attention/{name}/bias", f"{there}.bias", FLAT))
    rows.append(Row(f"{ours}/attention/out/kernel", f"{layer}.self_attn.out_proj.weight", FROM_HEADS))
    rows.append(Row(f"{ours}/attention/out/bias", f"{layer}.self_attn.out_proj.bias"))
    return rows + mlp(f"{ours}/mlp", f"{layer}.mlp")


def mlp(ours: str, theirs: str) -> list[Row]:
    """The rows of an MLP."""
    return [
        row
        for name, there in (("up", "fc1"), ("down", "fc2"))
        for row in (
            Row(f"{ours}/{name}/kernel", f"{theirs}.{there}.weight", LINEAR),
            Row(f"{ours}/{name}/bias", f"{theirs}.{there}.bias"),
        )
    ]


def sizes_of(config: Mapping[str, Any], defaults: Mapping[str, int] | None = None) -> dict[str, Any]:
    """The sizes of the layers of a tower; `defaults` replace those of image towers."""
    given = defaults or {}
    return {ours: size(config, theirs, given.get(ours, usual)) for ours, (theirs, usual) in _FIELDS.items()}


def tower_of(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """The config `name` of one tower, which is the whole config if the tower was saved alone."""
    if str(config.get("model_type")).endswith("_model"):
        return config
    found = config.get(name, {})
    if not isinstance(found, Mapping):
        raise ValueError(f"config.json has {name}={found!r}, which must be an object")
    return {**found, "model_type": config.get("model_type")}


def _table(model: ViT) -> list[Row]:
    return [
        Row("patches/kernel", f"{_TOWER}.embeddings.patch_embedding.weight", CONV),
        Row("positions", f"{_TOWER}.embeddings.position_embedding.weight", WITH_BATCH),
        *blocks("blocks", _TOWER),
        *norm("norm", f"{_TOWER}.post_layernorm"),
    ]


# transformers has no classifier with these poolings, so heads are never read, and left out in an export.
_HEAD = [Row("head/kernel", "classifier.weight", LINEAR), Row("head/bias", "classifier.bias")]


def clip_table(model: ViT) -> list[Row]:
    """See `Family`."""
    return [
        *_table(model),
        Row("cls", f"{_TOWER}.embeddings.class_embedding", FLAT),
        *norm("first_norm", f"{_TOWER}.pre_layrnorm"),
        Row("projection/kernel", "visual_projection.weight", LINEAR),
        *_HEAD,
    ]


def siglip_table(model: ViT) -> list[Row]:
    """See `Family`."""
    pooling = f"{_TOWER}.head"
    return [
        *_table(model),
        Row("patches/bias", f"{_TOWER}.embeddings.patch_embedding.bias"),
        Row("pooling/probe", f"{pooling}.probe"),
        Row("pooling/inputs_kernel", f"{pooling}.attention.in_proj_weight", INPUTS),
        Row("pooling/inputs_bias", f"{pooling}.attention.in_proj_bias", FLAT),
        Row("pooling/out/kernel", f"{pooling}.attention.out_proj.weight", FROM_HEADS),
        Row("pooling/out/bias", f"{pooling}.attention.out_proj.bias"),
        *norm("pooling/norm", f"{pooling}.layernorm"),
        *mlp("pooling/mlp", f"{pooling}.mlp"),
        *_HEAD,
    ]


def _fields(
    config: Mapping[str, Any], specs: Mapping[str, TensorSpec], patch_size: int, epsilon: float, gelu: str
) -> dict[str, Any]:
    """The fields that both models have; the last three arguments are the defaults of their config."""
    if "classifier.weight" in specs:
        raise ValueError(
            f"{config.get('architectures')} with a classifier is not supported: its head pools in another way; give "
            "the folder of the model that it was fine-tuned from"
        )
    own = tower_of(config, "vision_config")
    require_theirs(own, hidden_act=GELU)
    return {
        "num_classes": num_classes(config, specs, "classifier.weight"),
        "image_size": size(own, "image_size", 224),
        "patch_size": size(own, "patch_size", patch_size),
        **sizes_of(own),
        "layer_norm_epsilon": number(own, "layer_norm_eps", epsilon),
        "gelu": GELU[own.get("hidden_act", gelu)],
    }


def clip_fields(config: Mapping[str, Any], specs: Mapping[str, TensorSpec]) -> dict[str, Any]:
    """See `Family`; without the projection, which is that of zero-shot classification, unless the tower is alone."""
    projection = 0
    if config.get("model_type") == "clip_vision_model" and "visual_projection.weight" in specs:
        projection = specs["visual_projection.weight"].shape[0]
    own = {"pool": "cls", "patch_bias": False, "first_norm": True, "projection": projection}
    return {**_fields(config, specs, 32, 1e-5, "quick_gelu"), **own}


def siglip_fields(config: Mapping[str, Any], specs: Mapping[str, TensorSpec]) -> dict[str, Any]:
    """See `Family`."""
    require_theirs(tower_of(config, "vision_config"), vision_use_head=(True,))
    return {**_fields(config, specs, 16, 1e-6, "gelu_pytorch_tanh"), "pool": "map"}


def _config(model: ViT, name: str, kind: str) -> dict[str, Any]:
    return {
        "architectures": [name],
        "model_type": kind,
        **{theirs: getattr(model.spec, ours) for ours, (theirs, _) in _FIELDS.items()},
        "image_size": model.spec.image_size,
        "patch_size": model.spec.patch_size,
        "layer_norm_eps": model.spec.layer_norm_epsilon,
        "hidden_act": next(theirs for theirs, ours in GELU.items() if ours == model.spec.gelu),
    }


def clip_config(model: ViT) -> dict[str, Any]:
    """See `Family`; the image tower alone, with its projection if it has one."""
    own = {"pool": ("cls",), "qkv_bias": (True,), "patch_bias": (False,), "first_norm": (True,)}
    plain = {field: allowed for field, allowed in PLAIN.items() if field not in ("projection", "unit_features")}
    require(model, "CLIP in transformers", **(plain | own))
    if not model.spec.projection:
        return _config(model, "CLIPVisionModel", "clip_vision_model")
    config = _config(model, "CLIPVisionModelWithProjection", "clip_vision_model")
    return {**config, "projection_dim": model.spec.projection}


def siglip_config(model: ViT) -> dict[str, Any]:
    """See `Family`; the image tower alone."""
    own = {"pool": ("map",), "qkv_bias": (True,), "unit_features": (True, False)}
    require(model, "SigLIP in transformers", **(PLAIN | own))
    return _config(model, "SiglipVisionModel", "siglip_vision_model")


def names(found: Iterable[str]) -> dict[str, str]:
    """See `Family`; towers that were saved alone may lack the prefix."""
    return with_prefix(f"{_TOWER}.", "text_|visual_projection|logit_|classifier")(found)


_family = functools.partial(
    Family, model=ViT, experiment="image_classification", names=names, left_out="head/(kernel|bias)",
    unused=r"(text_model|text_projection|visual_projection)\..*|logit_(scale|bias)|.*\.position_ids",
)  # fmt: skip
CLIP, CLIP_VISION = (
    _family(name, fields=clip_fields, config=clip_config, table=clip_table) for name in ("clip", "clip_vision_model")
)
SIGLIP, SIGLIP_VISION = (
    _family(name, fields=siglip_fields, config=siglip_config, table=siglip_table)
    for name in ("siglip", "siglip_vision_model")
)
