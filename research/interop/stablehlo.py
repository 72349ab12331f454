"""`python -m research.interop export --format=stablehlo`: a program that runs where none of this code is."""

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export as jax_export

from research.interop import npz, runs
from research.interop.folders import whole_or_nothing
from research.models import decoding
from research.models.seq2seq import Seq2Seq
from research.models.speech import Recogniser

PLATFORMS = ("cpu", "tpu", "cuda")
_LOADER = Path(__file__).with_name("loader.py")


def run(workdir: str, path: str) -> list[str]:
    """Writes the selected checkpoint of the run in `workdir` as a program, weights and a loader to the folder `path`.

    The batch may be of any size. A model of pictures takes uint8 [batch, height, width, channels] and gives logits; one
    of text takes token ids and a mask, both int32 [batch, source_length], and gives the tokens of greedy decoding. So
    does one of sounds, of log-mel spectrograms float32 [batch, frames, mels] and a mask int32 [batch, places].
    Returns what to tell the user.
    """
    if importlib.util.find_spec("flatbuffers") is None:
        raise ValueError("--format=stablehlo needs flatbuffers; install Tessera with the extra [interop]")
    source, target = runs.open_run(Path(workdir)), Path(path)
    if target.exists() and (target.is_file() or any(target.iterdir())):
        raise ValueError(f"{path} exists; name a new folder")
    names = sorted(source.tensors.specs)
    shapes = [jax.ShapeDtypeStruct(*source.tensors.specs[name]) for name in names]
    model = source.make_model(dtype=source.config["precision"]["compute"])
    make = _sounds if isinstance(model, Recogniser) else _text if isinstance(model, Seq2Seq) else _pictures
    function, inputs = make(model, source)
    with whole_or_nothing(target) as folder:
        exported = jax_export.export(
            jax.jit(lambda weights, *args: function(_tree(names, weights), *args)), platforms=PLATFORMS
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


def _tree(names: list[str], weights: list[jax.Array]) -> dict[str, Any]:
    """The variables of a model, from their paths."""
    tree: dict[str, Any] = {}
    for name, leaf in zip(names, weights, strict=True):
        *groups, last = name.split("/")
        # Flax calls the statistics of batch norms so; nothing else is not trained.
        group = tree.setdefault("batch_stats" if last in ("mean", "var") else "params", {})
        for key in groups:
            group = group.setdefault(key, {})
        group[last] = leaf
    return tree


def _pictures(model: Any, source: runs.Run) -> tuple[Any, dict[str, jax.ShapeDtypeStruct]]:
    data, specs = source.config["data"], source.tensors.specs
    kernel = next(
        specs[name] for name in ("patches/kernel", "stem/conv1/kernel", "stem/kernel", "conv1/kernel") if name in specs
    )
    size = getattr(model.spec, "image_size", 0) or data["image_size"]
    if not size:
        raise ValueError("config.data.image_size=0: the size of the pictures is not known without the data; set it")
    (batch,) = jax_export.symbolic_shape("batch")
    mean, std = (np.asarray(data[name], np.float32) for name in ("mean", "std"))
    function = lambda variables, images: model.apply(variables, (images.astype(jnp.float32) - mean) / std)
    return function, {"images": jax.ShapeDtypeStruct((batch, size, size, kernel.shape[2]), jnp.uint8)}


def _text(model: Seq2Seq, source: runs.Run) -> tuple[Any, dict[str, jax.ShapeDtypeStruct]]:
    (batch,) = jax_export.symbolic_shape("batch")
    mask = jax.ShapeDtypeStruct((batch, source.config["data"]["source_length"]), jnp.int32)
    sentence = (model.sentence_length,) if model.sentence_length else ()
    return _decode(model, source), {"tokens": jax.ShapeDtypeStruct(mask.shape + sentence, jnp.int32), "mask": mask}


def _sounds(model: Recogniser, source: runs.Run) -> tuple[Any, dict[str, jax.ShapeDtypeStruct]]:
    (batch,) = jax_export.symbolic_shape("batch")
    places = runs.places(source.config)
    shape = (batch, places * model.spec.shortening, source.config["data"]["mels"])
    mask = jax.ShapeDtypeStruct((batch, places), jnp.int32)
    return _decode(model, source), {"spectrograms": jax.ShapeDtypeStruct(shape, jnp.float32), "mask": mask}


def _decode(model: Seq2Seq, source: runs.Run) -> Any:
    """A function of variables, sources and a mask of their places: the tokens of greedy decoding."""
    steps, special = source.config["task"]["max_decode_length"], source.special_ids
    bos, eos = special["decoder_start_token_id"], special["eos_token_id"]

    def function(variables, sources, mask):
        apply = lambda method, *args: model.apply(variables, *args, method=method)
        positions = jnp.broadcast_to(jnp.arange(mask.shape[1]), mask.shape)
        cache = apply("init_cache", apply("encode", sources, mask, positions), mask, steps, 1, sources)
        step = lambda *args: apply("decode_step", *args)
        return decoding.greedy(step, cache, sources.shape[0], steps, bos, eos)[0]

    return function
