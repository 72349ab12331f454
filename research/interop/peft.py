"""Low-rank updates in the layout of the library PEFT, in and out."""

import json
import math
import reprlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from research.interop import runs, safetensors, strict_json
from research.interop.family import MOST, Family, number, size
from research.interop.folders import atomic_directory
from research.interop.layouts import Row, TensorSource
from research.interop.merged import KERNEL, MergedTensors, matrices
from research.interop.safetensors import TensorSpec
from research.models.dense import LORA_A, LORA_B

_MODEL = "base_model.model."  # what PEFT puts before the names of tensors
_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# Fields of a config that change what its tensors mean, and the values that are supported.
_SUPPORTED = {
    "peft_type": ("LORA",), "bias": ("none",), "fan_in_fan_out": (False, None), "use_dora": (False, None),
    "rank_pattern": ({}, None), "alpha_pattern": ({}, None), "layers_to_transform": (None,),
}  # fmt: skip


def is_adapter(folder: Path) -> bool:
    """Whether `folder` is one that PEFT has written."""
    return (folder / _CONFIG).is_file()


def base_of(folder: Path) -> str:
    """The checkpoint that an adapter is for. Raises ValueError where it names none."""
    name = strict_json.read(folder / _CONFIG).get("base_model_name_or_path")
    if not isinstance(name, str) or not name:
        raise ValueError(
            f"{folder / _CONFIG} names no base_model_name_or_path; write the folder of the base model there"
        )
    return name


class AdaptedTensors:
    """The tensors of a base model, by the names of its family's table, with the updates of a folder added."""

    def __init__(self, base: TensorSource, folder: Path, family: Family[Any]):
        """Reads headers alone. Raises ValueError for another adapter than LoRA, and for tensors that fit no kernel."""
        self._base, self._updates = base, safetensors.Safetensors(folder / _WEIGHTS)
        self._scale = _scale(folder)
        bare = {}  # name without prefix -> name in the file
        for name in self._updates.specs:
            if not name.startswith(_MODEL):
                raise ValueError(f"{folder / _WEIGHTS}: {reprlib.repr(name)} does not begin with {_MODEL}")
            bare[name.removeprefix(_MODEL)] = name
        whole = {name.replace(".lora_A.", ".").replace(".lora_B.", "."): name for name in bare}
        self._low_rank: dict[str, tuple[str, str]] = {}
        self._saved: dict[str, str] = {}
        for ours, theirs in family.names(whole).items():
            if ".lora_" not in whole[theirs]:
                self._saved[ours] = bare[whole[theirs]]
                continue
            module = theirs.removesuffix(".weight")
            pair = [bare.get(f"{module}.lora_{part}.weight") for part in "AB"]
            self._low_rank[ours] = self._checked(ours, pair, folder)
        self.specs = {**base.specs, **{ours: self._updates.specs[name] for ours, name in self._saved.items()}}

    def read(self, name: str) -> np.ndarray:
        """A tensor; a kernel [out, in] with scale B A added in at least float32."""
        if name in self._saved:
            return self._updates.read(self._saved[name])
        kernel = self._base.read(name)
        if name not in self._low_rank:
            return kernel
        dtype = np.promote_types(np.float32, kernel.dtype)
        down, up = (self._updates.read(each).astype(dtype) for each in self._low_rank[name])
        return (kernel.astype(dtype) + self._scale * (up @ down)).astype(kernel.dtype)

    def _checked(self, ours: str, pair: list[str | None], folder: Path) -> tuple[str, str]:
        down, up = pair
        if down is None or up is None:
            raise ValueError(f"{folder / _WEIGHTS} has lora_A or lora_B of {ours} alone; copy it again")
        if ours not in self._base.specs:
            raise ValueError(f"{folder / _WEIGHTS} has an update of {ours}, which the base model has not")
        shape, (a, b) = self._base.specs[ours].shape, (self._updates.specs[name].shape for name in (down, up))
        if len(a) != 2 or len(b) != 2 or (b[0], a[1]) != shape or a[0] != b[1]:
            raise ValueError(f"the update of {ours} is {list(b)} times {list(a)}, but the kernel is {list(shape)}")
        return down, up


def _scale(folder: Path) -> float:
    """What an update is multiplied by. Raises ValueError for a config with what is not supported."""
    config = strict_json.read(folder / _CONFIG)
    for field, allowed in _SUPPORTED.items():
        if config.get(field, allowed[0]) not in allowed:
            raise ValueError(
                f"{folder / _CONFIG} has {field}={reprlib.repr(config[field])}, which is not supported; only "
                f"{allowed[0]!r} is"
            )
    rank, alpha = size(config, "r"), number(config, "lora_alpha", default=8, most=MOST)
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


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
        (folder / _CONFIG).write_text(json.dumps(config, indent=2) + "\n")
        specs = {name: spec for name, (spec, _) in tensors.items()}
        safetensors.write(folder / _WEIGHTS, specs, lambda name: tensors[name][1]())
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
