"""The text towers of CLIP and SigLIP in transformers."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from research.interop.families.clip import blocks, norm, sizes_of, tower_of
from research.interop.families.vit import GELU
from research.interop.family import number, require_theirs, size
from research.interop.layouts import LINEAR, Row
from research.interop.safetensors import TensorSpec
from research.models.text_tower import TextTower

KINDS = ("clip", "siglip")
_TOWER = "text_model"
_SIZES = {"clip": {"width": 512, "num_heads": 8, "mlp_dim": 2048}, "siglip": {}}  # defaults of their configs
_OLD_END = 2  # the eos_token_id in configs of old CLIPs, which do not have it as their last token
UNUSED = r"(vision_model|visual_projection)\..*|logit_(scale|bias)|.*\.position_ids"


def table(kind: str) -> list[Row]:
    """The rows of the parameters of a TextTower."""
    projection = "text_projection" if kind == "clip" else f"{_TOWER}.head"
    return [
        Row("embedding", f"{_TOWER}.embeddings.token_embedding.weight"),
        Row("encoder/learned", f"{_TOWER}.embeddings.position_embedding.weight"),
        *blocks("encoder/blocks", _TOWER),
        *norm("encoder/norm", f"{_TOWER}.final_layer_norm"),
        Row("projection/kernel", f"{projection}.weight", LINEAR),
        Row("projection/bias", f"{projection}.bias"),
    ]


def fields(kind: str, config: Mapping[str, Any], specs: Mapping[str, TensorSpec]) -> dict[str, Any]:
    """The fields of the TextTower. Raises ValueError for a config that ours cannot represent."""
    own, is_clip = tower_of(config, "text_config"), kind == "clip"
    require_theirs(own, hidden_act=GELU)
    projection = specs.get("text_projection.weight" if is_clip else f"{_TOWER}.head.weight")
    if projection is None or not projection.shape:
        raise ValueError(f"there is no text tower with a projection in this {kind}; give the folder of the whole model")
    return {
        "vocab_size": size(own, "vocab_size", 49_408 if is_clip else 32_000),
        "max_length": size(own, "max_position_embeddings", 77 if is_clip else 64),
        **sizes_of(own, _SIZES[kind]),
        "norm_epsilon": number(own, "layer_norm_eps", 1e-5 if is_clip else 1e-6),
        "gelu": GELU[own.get("hidden_act", "quick_gelu" if is_clip else "gelu_pytorch_tanh")],
        "causal": is_clip,
        "projection": projection.shape[0],
        "projection_bias": not is_clip,
    }


def padding(kind: str, config: Mapping[str, Any]) -> int:
    """The id of padding after a text; of no effect in CLIP."""
    return size(tower_of(config, "text_config"), "pad_token_id", 1, least=0) if kind == "siglip" else 0


def ends(kind: str, config: Mapping[str, Any], tokens: np.ndarray) -> np.ndarray:
    """The index of the token whose features are those of the text, for each row of `tokens` [batch, length].

    In CLIP the first end token, in SigLIP the last token, which may be padding. Raises ValueError for a text without
    an end token.
    """
    if kind == "siglip":
        return np.full(len(tokens), tokens.shape[1] - 1)
    end = size(tower_of(config, "text_config"), "eos_token_id", 49_407, least=0)
    is_end = tokens == (tokens.max() if end == _OLD_END else end)
    if not is_end.any(1).all():
        raise ValueError(f"the tokenizer.json of the {kind} adds no token {end} after a text; copy that of the weights")
    return is_end.argmax(1)


def model_of(fields: Mapping[str, Any]) -> TextTower:
    """The model with these fields. Raises FieldError for an invalid value."""
    return TextTower.of(**fields)
