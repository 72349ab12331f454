"""`python -m research.interop export`: writes the weights of a run in the format of transformers or big_vision."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from research.config import Experiments
from research.interop import npz, peft, runs, safetensors
from research.interop.checkpoints import FAMILIES
from research.interop.family import Family
from research.interop.folders import atomic_directory
from research.interop.layouts import TensorSource
from research.interop.safetensors import TensorSpec
from research.models.seq2seq import Seq2Seq

_MOST_BYTES = 5_000_000_000  # of a file


def run(
    workdir: str,
    path: str,
    experiments: Experiments,
    family: str = "",
    most_bytes: int = _MOST_BYTES,
    as_peft: bool = False,
) -> list[str]:
    """Writes the selected checkpoint of the run in `workdir` to the folder or .npz file `path`.

    Args:
        workdir: The run directory.
        path: The folder or file to create.
        experiments: From the name of an experiment to the class of its configs.
        family: One of `checkpoints.FAMILIES`; "": the family the run was imported from, else that of its model.
        most_bytes: The maximum size of a shard.
        as_peft: Whether to write only the adapters, LoRA or IA3; otherwise they are merged into their layers.

    Returns:
        Lines for the user.

    Raises:
        ValueError: The family cannot represent the model; nothing is written.
    """
    source, target = runs.open_run(Path(workdir), experiments), Path(path)
    chosen = _family(source, Path(workdir), target, family)
    model = source.model
    if target.exists() and (target.is_file() or any(target.iterdir())):
        raise ValueError(f"{path} exists; name a new {'file' if target.suffix == '.npz' else 'folder'}")
    if as_peft:
        return peft.write(source, chosen, target)
    config = chosen.config(model)
    specs, tensors, left_out = _tensors(chosen, model, source.tensors)
    config |= chosen.sizes(specs) | (source.special_ids if isinstance(model, Seq2Seq) else {})
    if chosen.name == "big_vision":
        target.parent.mkdir(parents=True, exist_ok=True)
        npz.write(target, specs, lambda name: tensors[name]())
    else:
        with atomic_directory(target) as folder:
            dtype = str(next(iter(specs.values())).dtype)
            text = json.dumps({**config, "dtype": dtype}, indent=2)
            (folder / "config.json").write_text(text + "\n")
            for name, content in chosen.files(model).items():
                (folder / name).parent.mkdir(exist_ok=True)
                (folder / name).write_text(json.dumps(content, indent=2) + "\n")
            safetensors.write_sharded(folder, specs, lambda name: tensors[name](), most_bytes)
    lines = [f"wrote {len(specs)} tensors of {chosen.name} to {path}"]
    return lines + [f"left out {name}, which {chosen.name} does not have" for name in left_out]


def _family(source: runs.SavedRun, workdir: Path, target: Path, name: str) -> Family[Any]:
    model = type(source.model)
    if not name:
        fitting = [each.name for each in FAMILIES.values() if each.model is model]
        by_suffix = [each for each in fitting if (each == "big_vision") == (target.suffix == ".npz")] or fitting
        imported = source.imported.get("kind")
        name = imported if imported in by_suffix else next(iter(by_suffix), "")
    if not name:
        raise ValueError(
            f"no family has a layout for a {model.__name__}; use `tessera predict` or, for classifiers and models of "
            "text and sound, --format=stablehlo"
        )
    if name not in FAMILIES:
        raise ValueError(f"--family={name!r} is unknown; choose from {', '.join(FAMILIES)}")
    if FAMILIES[name].model is not model:
        raise ValueError(f"--family={name} does not support a {model.__name__}, which {workdir} holds; leave it out")
    if (target.suffix == ".npz") != (name == "big_vision"):
        raise ValueError(f"{target}: big_vision needs a .npz file, every other family a folder; change the path")
    return FAMILIES[name]


def _tensors(
    family: Family[Any], model: Any, ours: TensorSource
) -> tuple[dict[str, TensorSpec], dict[str, Any], list[str]]:
    """The specs of the exported tensors, functions that compute them, and Tessera's parameters that are not exported.

    The specs are ordered so that each parameter of the run is read once.
    """
    rows = {row.ours: row for row in family.table(model)}
    read = family.fold(ours.read, ours.specs)
    left_out = [path for path in ours.specs if re.fullmatch(family.left_out, path)]
    specs, tensors = {}, {}
    for path, spec in ours.specs.items():
        if path in left_out:
            continue
        if path not in rows:
            raise ValueError(
                f"{path} cannot be exported, since {family.name} has no tensor for it; choose another family"
            )
        whole = lambda path=path: np.asarray(read(path))
        for name, make in rows[path].write(whole, spec.shape):
            specs[name] = TensorSpec(rows[path].their_shape(spec.shape), spec.dtype)
            tensors[name] = make
    dtype = next(iter(specs.values())).dtype
    for name, values in family.computed(model).items():
        specs[name] = TensorSpec(values.shape, dtype)
        tensors[name] = lambda values=values: values.astype(dtype)
    return specs, tensors, left_out
