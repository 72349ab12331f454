"""BERT, RoBERTa and DistilBERT of transformers: sequence classification, question answering, or no head.

In transformers MiniLM is a BERT. A folder of sentence-transformers holds one of these models, and files that define the
pooling of text features.
"""

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from research.interop.families import sentence_transformers
from research.interop.family import (
    Family,
    labels,
    num_classes,
    number,
    require,
    require_theirs,
    size,
    with_prefix,
)  # fmt: skip
from research.interop.layouts import FLAT, FROM_HEADS, LINEAR, SAME, Layout, Row
from research.interop.safetensors import TensorSpec
from research.models.bert import Bert

_SPANS = "qa_outputs"  # the head for begin and end of an answer, in all three models
_PADDING = 1  # RoBERTa's padding id; rows of its position embedding up to this one are unused


def _with_unused_rows(ours: np.ndarray) -> np.ndarray:
    return np.concatenate([np.zeros((_PADDING + 1, ours.shape[1]), ours.dtype), ours])


AFTER_PADDING = Layout(lambda theirs, shape: theirs[_PADDING + 1 :], _with_unused_rows)


def _linear(ours: str, theirs: str) -> list[Row]:
    return [Row(f"{ours}/kernel", f"{theirs}.weight", LINEAR), Row(f"{ours}/bias", f"{theirs}.bias")]


def _norm(ours: str, theirs: str) -> list[Row]:
    return [Row(f"{ours}/scale", f"{theirs}.weight"), Row(f"{ours}/bias", f"{theirs}.bias")]


def _embeddings(theirs: str, where: Layout = SAME) -> list[Row]:
    return [
        Row("embedding", f"{theirs}.word_embeddings.weight"),
        Row("types", f"{theirs}.token_type_embeddings.weight"),
        Row("learned", f"{theirs}.position_embeddings.weight", where),
        *_norm("norm", f"{theirs}.LayerNorm"),
    ]


def _blocks(theirs: str, names: Mapping[str, str]) -> list[Row]:
    """The rows of the layers below the prefix `theirs`; `names` maps our module names to theirs."""
    there = {ours: f"{theirs}.layer.{{layer}}.{name}" for ours, name in names.items()}
    ours, rows = "encoder/blocks", []
    for part in ("query", "key", "value"):
        rows.append(Row(f"{ours}/attention/{part}/kernel", f"{there[part]}.weight", LINEAR))
        rows.append(Row(f"{ours}/attention/{part}/bias", f"{there[part]}.bias", FLAT))
    rows.append(Row(f"{ours}/attention/out/kernel", f"{there['out']}.weight", FROM_HEADS))
    rows.append(Row(f"{ours}/attention/out/bias", f"{there['out']}.bias"))
    for part in ("up", "down"):
        rows += _linear(f"{ours}/mlp/{part}", there[part])
    return [row for part in ("attention_norm", "mlp_norm") for row in _norm(f"{ours}/{part}", there[part])] + rows


_BERT = {
    "query": "attention.self.query", "key": "attention.self.key", "value": "attention.self.value",
    "out": "attention.output.dense", "attention_norm": "attention.output.LayerNorm", "up": "intermediate.dense",
    "down": "output.dense", "mlp_norm": "output.LayerNorm",
}  # fmt: skip
_DISTILBERT = {
    "query": "attention.q_lin", "key": "attention.k_lin", "value": "attention.v_lin", "out": "attention.out_lin",
    "attention_norm": "sa_layer_norm", "up": "ffn.lin1", "down": "ffn.lin2", "mlp_norm": "output_layer_norm",
}  # fmt: skip


def bert_table(model: Bert) -> list[Row]:
    """See `Family`."""
    return [
        *_embeddings("bert.embeddings"),
        *_blocks("bert.encoder", _BERT),
        *_linear("pooler", "bert.pooler.dense"),
        *_linear("head", "classifier"),
        *_linear("token_head", _SPANS),
    ]


def roberta_table(model: Bert) -> list[Row]:
    """See `Family`; a classifier has its own dense layer instead of the pooler."""
    return [
        *_embeddings("roberta.embeddings", AFTER_PADDING),
        *_blocks("roberta.encoder", _BERT),
        *_linear("pooler", "classifier.dense" if model.num_classes else "roberta.pooler.dense"),
        *_linear("head", "classifier.out_proj"),
        *_linear("token_head", _SPANS),
    ]


def distilbert_table(model: Bert) -> list[Row]:
    """See `Family`."""
    return [
        *_embeddings("distilbert.embeddings"),
        *_blocks("distilbert.transformer", _DISTILBERT),
        *_linear("pooler", "pre_classifier"),
        *_linear("head", "classifier"),
        *_linear("token_head", _SPANS),
    ]


# Fields of our spec -> theirs.
_FIELDS = {
    "width": "hidden_size", "depth": "num_hidden_layers", "num_heads": "num_attention_heads",
    "mlp_dim": "intermediate_size",
}  # fmt: skip
_DISTILBERT_FIELDS = {"width": "dim", "depth": "n_layers", "num_heads": "n_heads", "mlp_dim": "hidden_dim"}
_NEVER = dict.fromkeys(("is_decoder", "add_cross_attention", "sinusoidal_pos_embds"), (False,))


def _common(
    config: Mapping[str, Any], specs: Mapping[str, TensorSpec], named: Mapping[str, str], prefix: str, unused: int = 0
) -> dict[str, Any]:
    """The fields common to the three models; `unused` is the number of unused rows of the position embedding."""
    require_theirs(config, position_embedding_type=("absolute", None), **_NEVER)

    def rows(table: str, theirs: str) -> int:
        spec = specs.get(f"{prefix}.embeddings.{table}_embeddings.weight")
        return spec.shape[0] if spec and spec.shape else size(config, theirs)

    return {ours: size(config, theirs) for ours, theirs in named.items()} | {
        "vocab_size": rows("word", "vocab_size"),
        "max_length": rows("position", "max_position_embeddings") - unused,
        "norm_epsilon": 1e-12,
    }


def _pooling(
    config: Mapping[str, Any], specs: Mapping[str, TensorSpec], head: str, pooler: str, kind: str
) -> dict[str, Any]:
    """The pooling before the head; without a head, that of the pooler or, without a pooler, the mean."""
    if f"{_SPANS}.weight" in specs:
        rows = specs[f"{_SPANS}.weight"].shape[:1]
        if rows != (2,):
            raise ValueError(f"{_SPANS}.weight has {rows} rows, which is not supported; it must have 2, begin and end")
        return {"pool": "mean", "num_classes": 2, "of_tokens": True}
    if head in specs:
        return {"pool": kind, "num_classes": num_classes(config, specs, head), "of_tokens": False}
    return {"pool": kind if pooler in specs else "mean", "num_classes": 0, "of_tokens": False}


def bert_fields(config: Mapping[str, Any], specs: Mapping[str, TensorSpec]) -> dict[str, Any]:
    """See `Family`."""
    require_theirs(config, hidden_act=("gelu",))
    return {
        **_common(config, specs, _FIELDS, "bert"),
        "token_types": size(config, "type_vocab_size", 2),
        "norm_epsilon": number(config, "layer_norm_eps", 1e-12),
        **_pooling(config, specs, "classifier.weight", "bert.pooler.dense.weight", "cls_tanh"),
    }


def roberta_fields(config: Mapping[str, Any], specs: Mapping[str, TensorSpec]) -> dict[str, Any]:
    """See `Family`."""
    require_theirs(config, hidden_act=("gelu",), pad_token_id=(_PADDING,))
    return {
        **_common(config, specs, _FIELDS, "roberta", _PADDING + 1),
        "token_types": size(config, "type_vocab_size", 2),
        "norm_epsilon": number(config, "layer_norm_eps", 1e-12),
        **_pooling(config, specs, "classifier.out_proj.weight", "roberta.pooler.dense.weight", "cls_tanh"),
    }


def distilbert_fields(config: Mapping[str, Any], specs: Mapping[str, TensorSpec]) -> dict[str, Any]:
    """See `Family`."""
    require_theirs(config, activation=("gelu",))
    return {
        **_common(config, specs, _DISTILBERT_FIELDS, "distilbert"),
        "token_types": 0,
        **_pooling(config, specs, "classifier.weight", "pre_classifier.weight", "cls_relu"),
    }


def _config(model: Bert, kind: str, name: str, named: Mapping[str, str], pool: str, unused: int = 0) -> dict[str, Any]:
    """The part of config.json common to the three models."""
    head, classes = "ForQuestionAnswering", {}
    if not model.of_tokens:
        head, classes = "ForSequenceClassification" if model.num_classes else "Model", labels(model.num_classes)
        if model.num_classes:
            require(model, f"a classifier of {name} in transformers", pool=(pool,))
        require(model, f"{name} in transformers", pool=("mean", "cls", pool))
    elif model.num_classes != 2:
        raise ValueError(
            f"a token classifier with {model.num_classes} classes cannot be exported: transformers supports 2, for "
            "answer spans"
        )
    return {
        "architectures": [f"{name}{head}"],
        "model_type": kind,
        "vocab_size": model.vocab_size,
        **{theirs: getattr(model.spec, ours) for ours, theirs in named.items()},
        "max_position_embeddings": model.max_length + unused,
        **classes,
    }


def _bert_like(model: Bert, kind: str, name: str, unused: int = 0) -> dict[str, Any]:
    if not model.spec.token_types:
        raise ValueError(f"config.model.token_types=0 cannot be exported: {name} in transformers needs at least 1")
    return {
        **_config(model, kind, name, _FIELDS, "cls_tanh", unused),
        "hidden_act": "gelu",
        "type_vocab_size": model.spec.token_types,
        "layer_norm_eps": model.spec.norm_epsilon,
    }


def bert_config(model: Bert) -> dict[str, Any]:
    """See `Family`."""
    return _bert_like(model, "bert", "Bert")


def roberta_config(model: Bert) -> dict[str, Any]:
    """See `Family`."""
    return {**_bert_like(model, "roberta", "Roberta", _PADDING + 1), "pad_token_id": _PADDING}


def distilbert_config(model: Bert) -> dict[str, Any]:
    """See `Family`."""
    require(model, "DistilBert in transformers", token_types=(0,), norm_epsilon=(1e-12,))
    return {**_config(model, "distilbert", "DistilBert", _DISTILBERT_FIELDS, "cls_relu"), "activation": "gelu"}


def _names(prefix: str, head: str) -> Callable[[Iterable[str]], dict[str, str]]:
    """As `with_prefix`; in checkpoints converted from TensorFlow, layer norms have a gamma and a beta."""
    whole, old = with_prefix(f"{prefix}.", head), {".gamma": ".weight", ".beta": ".bias"}

    def names(found: Iterable[str]) -> dict[str, str]:
        named = whole(found)
        for name in list(named):
            stem, dot, last = name.rpartition(".")
            if stem.endswith("LayerNorm") and (new := old.get(dot + last)):
                named[stem + new] = named.pop(name)
        return named

    return names


_family = functools.partial(
    Family,
    model=Bert,
    experiment="sentiment",
    of_tokens="question_answering",
    beside=sentence_transformers.beside,
    files=sentence_transformers.files,
)
BERT = _family(
    "bert", fields=bert_fields, config=bert_config, table=bert_table,
    names=_names("bert", r"classifier\.|qa_outputs\.|cls\."),
    unused=r"bert\.embeddings\.position_ids|bert\.pooler\..*|cls\..*",
)  # fmt: skip
ROBERTA = _family(
    "roberta", fields=roberta_fields, config=roberta_config, table=roberta_table,
    names=_names("roberta", r"classifier\.|qa_outputs\.|lm_head\."),
    unused=r"roberta\.embeddings\.position_ids|roberta\.pooler\..*|lm_head\..*",
)  # fmt: skip
DISTILBERT = _family(
    "distilbert", fields=distilbert_fields, config=distilbert_config, table=distilbert_table,
    names=_names("distilbert", r"classifier\.|pre_classifier\.|qa_outputs\.|vocab_"),
    unused=r"distilbert\.embeddings\.position_ids|pre_classifier\..*|vocab_(transform|layer_norm|projector)\..*",
)  # fmt: skip
