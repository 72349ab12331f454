"""Reads and writes adapters, of LoRA or IA3, in the format of the Hugging Face library PEFT."""

import json
import math
import re
import reprlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from research import files
from research.interop import runs, safetensors, strict_json
from research.interop.family import MOST, Family, number, size
from research.interop.folders import atomic_directory
from research.interop.layouts import Row, TensorSource
from research.interop.merged import KERNEL, MergedTensors, matrices
from research.interop.safetensors import TensorSpec
from research.models.dense import IA3_IN, IA3_OUT, LORA_A, LORA_B

_MODEL = "base_model.model."  # PEFT's prefix of tensor names
_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# Fields of a config that change the meaning of its tensors, and their supported values.
_SUPPORTED = {
    "peft_type": ("LORA", "IA3"), "bias": ("none",), "fan_in_fan_out": (False, None), "use_dora": (False, None),
    "rank_pattern": ({}, None), "alpha_pattern": ({}, None), "layers_to_transform": (None,),
}  # fmt: skip
_PART = re.compile(r"\.(lora_[AB]\.weight|ia3_l)$")  # the end of the name of an adapter's tensor


def is_adapter(folder: Path) -> bool:
    """Whether `folder` holds an adapter of PEFT."""
    return (folder / _CONFIG).is_file()


def base_of(folder: Path) -> str:
    """The base checkpoint of an adapter. Raises ValueError if its config has none."""
    name = strict_json.read(folder / _CONFIG).get("base_model_name_or_path")
    if not isinstance(name, str) or not name:
        raise ValueError(f"{folder / _CONFIG} has no base_model_name_or_path; write the folder of the base model there")
    return name


class AdaptedTensors:
    """The tensors of a base model, under the names of its family's table, with the adapters of a folder merged."""

    def __init__(self, base: TensorSource, folder: Path, family: Family[Any]):
        """Reads only headers. Raises ValueError for adapters of other kinds, and for tensors that do not fit."""
        self._base, self._updates = base, safetensors.Safetensors(folder / _WEIGHTS)
        self._scale = _scale(folder)
        bare = {}  # name without prefix -> name in the file
        for name in self._updates.specs:
            if not name.startswith(_MODEL):
                raise ValueError(f"{folder / _WEIGHTS}: {reprlib.repr(name)} does not begin with {_MODEL}")
            bare[name.removeprefix(_MODEL)] = name
        whole = {_PART.sub(".weight", name): name for name in bare}
        self._low_rank: dict[str, tuple[str, str]] = {}
        self._scales: dict[str, str] = {}  # of kernels, and of biases if the outputs are scaled
        self._saved: dict[str, str] = {}
        for ours, theirs in family.names(whole).items():
            part = _PART.search(whole[theirs])
            if part is None:
                self._saved[ours] = bare[whole[theirs]]
                continue
            if part[1] == "ia3_l":
                self._add_scale(ours, bare[whole[theirs]], folder)
                continue
            module = theirs.removesuffix(".weight")
            pair = [bare.get(f"{module}.lora_{part}.weight") for part in "AB"]
            self._low_rank[ours] = self._checked(ours, pair, folder)
        self.specs = {**base.specs, **{ours: self._updates.specs[name] for ours, name in self._saved.items()}}

    def read(self, name: str) -> np.ndarray:
        """A tensor; a kernel [out, in] with scale B A added, or multiplied by its scales, in at least float32."""
        if name in self._saved:
            return self._updates.read(self._saved[name])
        kernel = self._base.read(name)
        if name in self._scales:
            dtype = np.promote_types(np.float32, kernel.dtype)
            scale = self._updates.read(self._scales[name]).astype(dtype)
            return (kernel.astype(dtype) * (scale if kernel.ndim == 2 else scale[:, 0])).astype(kernel.dtype)
        if name not in self._low_rank:
            return kernel
        dtype = np.promote_types(np.float32, kernel.dtype)
        down, up = (self._updates.read(each).astype(dtype) for each in self._low_rank[name])
        return (kernel.astype(dtype) + self._scale * (up @ down)).astype(kernel.dtype)

    def _add_scale(self, ours: str, name: str, folder: Path) -> None:
        """Adds the scales `name` of the kernel `ours`: [out, 1] of outputs, [1, in] of inputs."""
        if ours not in self._base.specs:
            raise ValueError(f"{folder / _WEIGHTS} has scales of {ours}, which the base model does not have")
        shape, scales = self._base.specs[ours].shape, self._updates.specs[name].shape
        if len(shape) != 2 or scales not in ((shape[0], 1), (1, shape[1])):
            raise ValueError(f"the scales of {ours} are {list(scales)}, but the kernel is {list(shape)}")
        self._scales[ours] = name
        bias = f"{ours.removesuffix('.weight')}.bias"
        if scales[1] == 1 and bias in self._base.specs:
            self._scales[bias] = name

    def _checked(self, ours: str, pair: list[str | None], folder: Path) -> tuple[str, str]:
        down, up = pair
        if down is None or up is None:
            raise ValueError(f"{folder / _WEIGHTS} has lora_A or lora_B of {ours} alone; copy it again")
        if ours not in self._base.specs:
            raise ValueError(f"{folder / _WEIGHTS} has an update of {ours}, which the base model does not have")
        shape, (a, b) = self._base.specs[ours].shape, (self._updates.specs[name].shape for name in (down, up))
        if len(a) != 2 or len(b) != 2 or (b[0], a[1]) != shape or a[0] != b[1]:
            raise ValueError(f"the update of {ours} is {list(b)} times {list(a)}, but the kernel is {list(shape)}")
        return down, up


def _scale(folder: Path) -> float:
    """The scale of updates, lora_alpha / r; 1 with IA3. Raises ValueError for an unsupported config."""
    config = strict_json.read(folder / _CONFIG)
    for field, allowed in _SUPPORTED.items():
        if config.get(field, allowed[0]) not in allowed:
            raise ValueError(
                f"{folder / _CONFIG} has {field}={reprlib.repr(config[field])}, which is not supported; it must be "
                + " or ".join(repr(each) for each in allowed if each is not None or len(allowed) == 1)
            )
    if config.get("peft_type") == "IA3":
        return 1.0
    rank, alpha = size(config, "r"), number(config, "lora_alpha", default=8, most=MOST)
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def write(source: runs.SavedRun, family: Family[Any], path: Path) -> list[str]:
    """Writes the adapters of a run, and its other trained parameters, to the new folder `path`.

    The files adapter_model.safetensors and adapter_config.json are for the transformers model of `family` that the run
    started from. Returns lines for the user. Raises ValueError for a run without adapters, or with both kinds, and for
    a family that is not of transformers.
    """
    spec = source.config.lora
    if not isinstance(source.tensors, MergedTensors):
        raise ValueError("this run has no adapters; train it with config.lora.rank, or use --format=weights")
    if family.name == "big_vision":
        raise ValueError("--format=peft is for the families of transformers, and big_vision is none of them")
    if spec.rank and (spec.scale_inputs or spec.scale_outputs):
        raise ValueError(
            f"this run has both low-rank updates (config.lora.rank={spec.rank}) and scales, but an adapter of PEFT has "
            "one kind; use --format=weights"
        )
    rows = {row.ours: row for row in family.table(source.model)}
    updates = dict((_updates if spec.rank else _scales)(source.tensors.whole, rows))
    saved = dict(_saved(source, rows))
    tensors = {_MODEL + name: tensor for name, tensor in (updates | saved).items()}
    modules = sorted({_PART.sub("", name) for name in updates})
    of_kind = {
        "peft_type": "LORA", "r": spec.rank, "lora_alpha": spec.rank, "lora_dropout": 0.0, "bias": "none",
    }  # fmt: skip
    if not spec.rank:
        inputs = sorted(_PART.sub("", name) for name, (each, _) in updates.items() if each.shape[1] != 1)
        of_kind = {"peft_type": "IA3", "feedforward_modules": inputs, "init_ia3_weights": True}
    config = {
        **of_kind, "fan_in_fan_out": False, "inference_mode": True, "task_type": None,
        "base_model_name_or_path": _base_name(source.config.train.init_from),
        "target_modules": modules,
        "modules_to_save": sorted({name.rpartition(".")[0] for name in saved}) or None,
    }  # fmt: skip
    with atomic_directory(path) as folder:
        (folder / _CONFIG).write_text(json.dumps(config, indent=2) + "\n")
        specs = {name: spec for name, (spec, _) in tensors.items()}
        safetensors.write(folder / _WEIGHTS, specs, lambda name: tensors[name][1]())
    return [f"wrote {len(tensors)} tensors, {of_kind['peft_type']} and other trained parameters, to {path}"]


def _base_name(init_from: str) -> str:
    """The base model as PEFT names it: a folder, or ORG/NAME of a hub."""
    hub = init_from.removeprefix(files.HUB)
    return init_from if hub == init_from else hub.partition("@")[0]


def _updates(tensors: TensorSource, rows: Mapping[str, Row]) -> Iterator[tuple[str, Any]]:
    """Yields the names of A [rank, inputs] and B [features, rank] of each layer, with spec and reading function."""
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


def _scales(tensors: TensorSource, rows: Mapping[str, Row]) -> Iterator[tuple[str, Any]]:
    """As `_updates`, for the scales of IA3: [features, 1] of outputs, [1, inputs] of inputs.

    Raises ValueError for a layer with both, which PEFT does not have.
    """
    for path in tensors.specs:
        where, _, last = path.rpartition("/")
        if last not in (IA3_IN, IA3_OUT):
            continue
        kernel, row_of = f"{where}/{KERNEL}", rows.get(f"{where}/{KERNEL}")
        if row_of is None:
            raise ValueError(f"{kernel} cannot be exported: the family has no tensor for it")
        if last == IA3_IN and f"{where}/{IA3_OUT}" in tensors.specs:
            raise ValueError(f"{kernel} has scales of inputs and of outputs, but PEFT has one; use --format=weights")
        scales, names = tensors.read(path), row_of.names(tensors.specs[kernel].shape)
        for scale, name in zip(scales.reshape(len(names), -1), names, strict=True):
            whole = np.ascontiguousarray(scale[None] if last == IA3_IN else scale[:, None])
            yield f"{name.removesuffix('.weight')}.ia3_l", (TensorSpec(whole.shape, whole.dtype), lambda w=whole: w)


def _saved(source: runs.SavedRun, rows: Mapping[str, Row]) -> Iterator[tuple[str, Any]]:
    """As `_updates`, for the parameters that were trained without LoRA."""
    for path, spec in source.tensors.specs.items():
        if not source.config.lora.trains(path) or path not in rows:
            continue
        read = lambda path=path: source.tensors.read(path)
        for name, make in rows[path].write(read, spec.shape):
            yield name, (TensorSpec(rows[path].their_shape(spec.shape), spec.dtype), make)
