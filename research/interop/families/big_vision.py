"""ViT of big_vision: an .npz of parameters, whose names and shapes determine the fields of the model."""

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np

from research.interop.families import vit
from research.interop.family import Family, Read, require
from research.interop.layouts import Layout, Row
from research.interop.safetensors import TensorSpec
from research.models.vit import ViT

_BLOCK = "Transformer/encoderblock_{layer}"
_ATTENTION = f"{_BLOCK}/MultiHeadDotProductAttention_0"


def _with_cls(theirs: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Position embeddings [1, length, width], with a row of zeros prepended if ours include the class token."""
    return np.concatenate([np.zeros_like(theirs[:, :1]), theirs], 1) if theirs.shape[1] == shape[1] - 1 else theirs


# big_vision's class token has no position embedding; on export, `fold` adds ours to the token.
_WITHOUT_CLS = Layout(_with_cls, lambda ours: ours[:, 1:])


def table(model: ViT) -> list[Row]:
    """See `Family`. Both sides are Flax, so nothing is transposed."""
    return [
        Row("patches/kernel", "embedding/kernel"),
        Row("patches/bias", "embedding/bias"),
        Row("cls", "cls"),
        Row("positions", "pos_embedding", *([_WITHOUT_CLS] if model.spec.pool == "cls" else [])),
        Row("blocks/attention_norm/scale", f"{_BLOCK}/LayerNorm_0/scale"),
        Row("blocks/attention_norm/bias", f"{_BLOCK}/LayerNorm_0/bias"),
        Row("blocks/attention/query/kernel", f"{_ATTENTION}/query/kernel"),
        Row("blocks/attention/query/bias", f"{_ATTENTION}/query/bias"),
        Row("blocks/attention/key/kernel", f"{_ATTENTION}/key/kernel"),
        Row("blocks/attention/key/bias", f"{_ATTENTION}/key/bias"),
        Row("blocks/attention/value/kernel", f"{_ATTENTION}/value/kernel"),
        Row("blocks/attention/value/bias", f"{_ATTENTION}/value/bias"),
        Row("blocks/attention/out/kernel", f"{_ATTENTION}/out/kernel"),
        Row("blocks/attention/out/bias", f"{_ATTENTION}/out/bias"),
        Row("blocks/mlp_norm/scale", f"{_BLOCK}/LayerNorm_1/scale"),
        Row("blocks/mlp_norm/bias", f"{_BLOCK}/LayerNorm_1/bias"),
        Row("blocks/mlp/up/kernel", f"{_BLOCK}/MlpBlock_0/Dense_0/kernel"),
        Row("blocks/mlp/up/bias", f"{_BLOCK}/MlpBlock_0/Dense_0/bias"),
        Row("blocks/mlp/down/kernel", f"{_BLOCK}/MlpBlock_0/Dense_1/kernel"),
        Row("blocks/mlp/down/bias", f"{_BLOCK}/MlpBlock_0/Dense_1/bias"),
        Row("norm/scale", "Transformer/encoder_norm/scale"),
        Row("norm/bias", "Transformer/encoder_norm/bias"),
        Row("head/kernel", "head/kernel"),
        Row("head/bias", "head/bias"),
    ]


def fields(config: Mapping[str, Any], specs: Mapping[str, TensorSpec]) -> dict[str, Any]:
    """See `Family`; there is no config."""
    query, up, patches = (
        _shape(specs, name.format(layer=0), rank)
        for name, rank in ((f"{_ATTENTION}/query/kernel", 3), (f"{_BLOCK}/MlpBlock_0/Dense_0/kernel", 2),
                           ("embedding/kernel", 4))
    )  # fmt: skip
    if other := next((name for name in specs if re.match("MAPHead_|pre_logits/", name)), None):
        raise ValueError(f"{other}: MAP pooling and a representation layer are not supported; pool must be cls or gap")
    layers = {found[1] for found in map(re.compile(r".*/encoderblock_([0-9]{1,4})/").match, specs) if found}
    depth = 1 + max(map(int, layers))
    positions = "learned" if "pos_embedding" in specs else "sincos"
    size = 224  # unknown if positions are computed (sincos)
    if positions == "learned":
        length = _shape(specs, "pos_embedding", 3)[1]
        side = round(length**0.5)
        if side**2 != length:
            raise ValueError(f"pos_embedding has {length} positions, not a square number; images must be square")
        size = side * patches[0]
    return {
        "num_classes": _shape(specs, "head/kernel", 2)[1] if "head/kernel" in specs else 1000,
        "image_size": size,
        "patch_size": patches[0],
        "width": query[0],
        "depth": depth,
        "mlp_dim": up[1],
        "num_heads": query[1],
        "pool": "cls" if "cls" in specs else "mean",
        "positions": positions,
        "layer_norm_epsilon": 1e-6,
        "gelu": "tanh",
    }


def _shape(specs: Mapping[str, TensorSpec], name: str, rank: int) -> tuple[int, ...]:
    if name not in specs:
        raise ValueError(f"{name} is missing; give an .npz of a ViT of big_vision, which has one")
    if len(specs[name].shape) != rank:
        raise ValueError(f"{name} has the shape {list(specs[name].shape)}; {rank} axes are needed")
    if 0 in specs[name].shape:
        raise ValueError(f"{name} has the shape {list(specs[name].shape)}, which is empty")
    return specs[name].shape


def config(model: ViT) -> dict[str, Any]:
    """See `Family`: an empty config; raises ValueError for a model that big_vision does not support."""
    own = {"positions": ("learned", "sincos"), "pool": ("cls", "mean"), "qkv_bias": (True,), "gelu": ("tanh",)}
    require(model, "ViT in big_vision", **(vit.PLAIN | own), layer_norm_epsilon=(1e-6,))
    return {}


def names(found: Iterable[str]) -> dict[str, str]:
    """See `Family`; complete training states hold the parameters below `params/`."""
    return {name.removeprefix("params/"): name for name in found}


def fold(read: Read, paths: Collection[str]) -> Read:
    """See `Family`; adds the position embedding of the class token to the token."""
    if not {"cls", "positions"} <= set(paths):
        return read
    return lambda path: read("cls") + read("positions")[:, :1] if path == "cls" else read(path)


FAMILY = Family("big_vision", ViT, "image_classification", fields, config, table, names, r"(opt|extra)/.*", fold)
