"""`python -m research.interop export --format=stablehlo`: a compiled program that runs without this code."""

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import jax
from jax import export as jax_export

from research.config import Experiments
from research.interop import npz, runs
from research.interop.folders import atomic_directory
from research.tasks.serving import Served

PLATFORMS = ("cpu", "tpu", "cuda")
_LOADER = Path(__file__).with_name("loader.py")


def run(workdir: str, path: str, experiments: Experiments) -> list[str]:
    """Writes the selected checkpoint of the run in `workdir` as a program, weights and a loader to the folder `path`.

    The program computes what the task of the run serves (tasks/serving.py), for any batch size:

    image and video classifiers   images uint8 [batch, height, width, channels] -> logits
    encoder-decoders of text      token ids and mask, int32 [batch, source_length] -> tokens of greedy decoding
    speech recognition            log-mel spectrograms float32 [batch, frames, mels] and mask int32 [batch, positions]
                                  -> tokens of greedy decoding
    span extraction               token ids, mask and token types (1 from the context on), int32 [batch, source_length]
                                  -> logits [batch, source_length, 2]

    `experiments` maps the name of an experiment to the class of its configs. Returns lines for the user. Raises
    ValueError for a task that serves nothing.
    """
    if importlib.util.find_spec("flatbuffers") is None:
        raise ValueError("--format=stablehlo needs flatbuffers; install Tessera with the extra [interop]")
    source, target = runs.open_run(Path(workdir), experiments), Path(path)
    if not isinstance(source.task, Served):
        raise ValueError(
            f"a {type(source.model).__name__} cannot be exported; only classifiers and models of text and sound can be"
        )
    if target.exists() and (target.is_file() or any(target.iterdir())):
        raise ValueError(f"{path} exists; name a new folder")
    names = sorted(source.tensors.specs)
    shapes = [jax.ShapeDtypeStruct(*source.tensors.specs[name]) for name in names]
    (batch,) = jax_export.symbolic_shape("batch")
    inputs = source.task.serve_inputs(batch)
    with atomic_directory(target) as folder:
        exported = jax_export.export(
            jax.jit(lambda weights, *args: source.task.serve(tree(names, weights), *args)), platforms=PLATFORMS
        )(shapes, *inputs.values())
        (folder / "model.stablehlo").write_bytes(exported.serialize())
        npz.write(folder / "weights.npz", names, source.tensors.read)
        about = {
            "weights": {name: str(source.tensors.specs[name].dtype) for name in names},
            "inputs": {name: [[str(size) for size in of.shape], str(of.dtype)] for name, of in inputs.items()},
            "platforms": PLATFORMS,
        }
        (folder / "model.json").write_text(json.dumps(about, indent=2) + "\n")
        shutil.copy(_LOADER, folder / "load.py")
    return [f"wrote a program for {', '.join(PLATFORMS)} to {path}; see {path}/load.py"]


def tree(names: list[str], weights: list[jax.Array]) -> dict[str, Any]:
    """The variables of a model as a nested dict, from their paths."""
    tree: dict[str, Any] = {}
    for name, leaf in zip(names, weights, strict=True):
        *groups, last = name.split("/")
        # In Flax, the statistics of batch norms have these names; all other variables are trained.
        group = tree.setdefault("batch_stats" if last in ("mean", "var") else "params", {})
        for key in groups:
            group = group.setdefault(key, {})
        group[last] = leaf
    return tree
