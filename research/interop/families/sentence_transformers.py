"""The files of sentence-transformers beside a model, which define the pooling of text features."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from research.interop import strict_json
from research.models.bert import Bert

_MODULES, _POOLING = "modules.json", "1_Pooling/config.json"
_MODES = {"mean": "pooling_mode_mean_tokens", "cls": "pooling_mode_cls_token"}  # the format before version 6
_KNOWN_MODULES = ("Transformer", "Pooling", "Normalize")


def beside(folder: Path, fields: Mapping[str, Any]) -> dict[str, Any]:
    """See `Family`; the pooling, if there are files of sentence-transformers and the model has no head."""
    if fields["num_classes"] or not (folder / _MODULES).is_file():
        return {}
    for kind in _module_types(folder / _MODULES):
        if kind not in _KNOWN_MODULES:
            raise ValueError(
                f"{folder / _MODULES} has a module {kind[:80]!r}, which is not supported; it must be one of "
                f"{', '.join(_KNOWN_MODULES)}"
            )
    config = strict_json.read(folder / _POOLING)
    on = [name for name in config if name.startswith("pooling_mode_") and config[name] is True]
    mode = config.get("pooling_mode", next((mode for mode, name in _MODES.items() if on == [name]), None))
    if not isinstance(mode, str) or mode not in _MODES:
        raise ValueError(f"{folder / _POOLING} has an unsupported pooling; it must be {' or '.join(_MODES)}")
    return {"pool": mode}


def _module_types(path: Path) -> list[str]:
    """The class names of the modules; unlike other config files, this one is a JSON array."""
    text = path.read_bytes()[: strict_json.MOST_BYTES]
    modules = strict_json.parse(b'{"modules": ' + text + b"}", str(path))["modules"]
    if not isinstance(modules, list) or not all(isinstance(each, dict) for each in modules):
        raise ValueError(f"{path} is not a list of modules; copy it again")
    return [str(each.get("type")).rpartition(".")[2] for each in modules]


def files(model: Bert) -> dict[str, Any]:
    """See `Family`; those of sentence-transformers, for a model without a head that pools by mean or first token.

    They have the names of older versions, which newer ones read too.
    """
    if model.num_classes or model.spec.pool not in _MODES:
        return {}
    module = lambda index, path, name: {
        "idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{name}",
    }  # fmt: skip
    pooling = {name: mode == model.spec.pool for mode, name in _MODES.items()}
    return {
        _MODULES: [module(0, "", "Transformer"), module(1, "1_Pooling", "Pooling")],
        _POOLING: {"word_embedding_dimension": model.spec.width, **pooling},
        "sentence_bert_config.json": {"max_seq_length": model.max_length, "do_lower_case": False},
    }
