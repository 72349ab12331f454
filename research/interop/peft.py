"""Low-rank updates as the library PEFT reads them."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from research.interop import runs, safetensors
from research.interop.family import Family
from research.interop.folders import atomic_directory
from research.interop.layouts import Row, TensorSource
from research.interop.merged import KERNEL, MergedTensors, matrices
from research.interop.safetensors import TensorSpec
from research.models.dense import LORA_A, LORA_B

_MODEL = "base_model.model."  # what PEFT puts before the names of tensors


def write(source: runs.SavedRun, family: Family[Any], path: Path) -> list[str]:
    """Writes the updates of a run, and what was trained beside them, to the new folder `path`.

    As PEFT reads them: adapter_model.safetensors and adapter_config.json, for the model of `family` in transformers
    from which the run began. Returns what to tell the user. Raises ValueError for a run without updates, and for a
    family that transformers does not read.
    """
    if not isinstance(source.tensors, MergedTensors):
        raise ValueError("this run has no low-rank updates; train it with config.lora.rank, or use --format=weights")
    if family.name == "big_vision":
        raise ValueError("--format=peft is for the families of transformers, and big_vision is none of them")
    rows = {row.ours: row for row in family.table(source.model)}
    updates = dict(_updates(source.tensors.whole, rows))
    saved = dict(_saved(source, rows))
    tensors = {_MODEL + name: tensor for name, tensor in (updates | saved).items()}
    config = {
        "peft_type": "LORA", "r": source.config.lora.rank, "lora_alpha": source.config.lora.rank, "lora_dropout": 0.0,
        "bias": "none", "fan_in_fan_out": False, "inference_mode": True, "task_type": None,
        "base_model_name_or_path": source.config.train.init_from,
        "target_modules": sorted({name.rsplit(".lora_", 1)[0] for name in updates}),
        "modules_to_save": sorted({name.rpartition(".")[0] for name in saved}) or None,
    }  # fmt: skip
    with atomic_directory(path) as folder:
        (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")
        specs = {name: spec for name, (spec, _) in tensors.items()}
        safetensors.write(folder / "adapter_model.safetensors", specs, lambda name: tensors[name][1]())
    return [f"wrote {len(tensors)} tensors of low-rank updates, and of what was trained beside them, to {path}"]


def _updates(tensors: TensorSource, rows: Mapping[str, Row]) -> Iterator[tuple[str, Any]]:
    """Their name of A [rank, inputs] and B [features, rank] of each layer, with spec and function that makes it."""
    for path in tensors.specs:
        where, _, last = path.rpartition("/")
        if last != LORA_A:
            continue
        kernel = f"{where}/{KERNEL}"
        if kernel not in rows:
            raise ValueError(f"{kernel} cannot be exported: the family has no tensor for it")
        shape = tensors.specs[kernel].shape
        a, b = (tensors.read(f"{where}/{each}") for each in (LORA_A, LORA_B))
        down, up = matrices(a, b, len(shape))
        for layer, name in enumerate(rows[kernel].names(shape)):
            module = name.removesuffix(".weight")
            for end, matrix in (("lora_A", down[layer].T), ("lora_B", up[layer].T)):
                whole = np.ascontiguousarray(matrix)
                yield f"{module}.{end}.weight", (TensorSpec(whole.shape, whole.dtype), lambda whole=whole: whole)


def _saved(source: runs.SavedRun, rows: Mapping[str, Row]) -> Iterator[tuple[str, Any]]:
    """The same of the parameters that were trained themselves."""
    for path, spec in source.tensors.specs.items():
        if not source.config.lora.trains(path) or path not in rows:
            continue
        read = lambda path=path: source.tensors.read(path)
        for name, make in rows[path].write(read, spec.shape):
            yield name, (TensorSpec(rows[path].their_shape(spec.shape), spec.dtype), make)
