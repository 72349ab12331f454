"""`python -m research.interop export`: the weights of a run as transformers or big_vision read them."""

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

    Low-rank updates are added to their kernels; `as_peft` writes these alone.

    `experiments` gives the class of the config of an experiment.
    `family` is one of `checkpoints.FAMILIES`; "": the one the run was imported from, else that of its model. Returns
    what to tell the user. Raises ValueError for a model that the family has no place for; then nothing is written.
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
    return lines + [f"left out {name}, for which {chosen.name} has no place" for name in left_out]


def _family(source: runs.SavedRun, workdir: Path, target: Path, name: str) -> Family[Any]:
    model = type(source.model)
    if not name:
        fitting = [each.name for each in FAMILIES.values() if each.model is model]
        as_said = [each for each in fitting if (each == "big_vision") == (target.suffix == ".npz")] or fitting
        imported = source.imported.get("kind")
        name = imported if imported in as_said else next(iter(as_said), "")
    if not name:
        raise ValueError(
            f"no family has a layout for a {model.__name__}; its run is used by `tessera predict`, and classifiers and "
            "models of text and sound also export with --format=stablehlo"
        )
    if name not in FAMILIES:
        raise ValueError(f"no family {name!r} is known for a {model.__name__}; known: {', '.join(FAMILIES)}")
    if FAMILIES[name].model is not model:
        raise ValueError(f"--family={name} has no place for a {model.__name__}, which {workdir} holds")
    if (target.suffix == ".npz") != (name == "big_vision"):
        raise ValueError(f"{target}: big_vision is written to a .npz file, every other family to a folder")
    return FAMILIES[name]


def _tensors(
    family: Family[Any], model: Any, ours: TensorSource
) -> tuple[dict[str, TensorSpec], dict[str, Any], list[str]]:
    """The specs of their tensors, in the order in which ours are read once, and functions that make them.

    The last are the parameters of ours that stay behind.
    """
    rows = {row.ours: row for row in family.table(model)}
    read = family.fold(ours.read, ours.specs)
    left_out = [path for path in ours.specs if re.fullmatch(family.left_out, path)]
    specs, tensors = {}, {}
    for path, spec in ours.specs.items():
        if path in left_out:
            continue
        if path not in rows:
            raise ValueError(f"{path} cannot be exported: {family.name} has no tensor for it")
        whole = lambda path=path: np.asarray(read(path))
        for name, make in rows[path].write(whole, spec.shape):
            specs[name] = TensorSpec(rows[path].their_shape(spec.shape), spec.dtype)
            tensors[name] = make
    dtype = next(iter(specs.values())).dtype
    for name, values in family.computed(model).items():
        specs[name] = TensorSpec(values.shape, dtype)
        tensors[name] = lambda values=values: values.astype(dtype)
    return specs, tensors, left_out
