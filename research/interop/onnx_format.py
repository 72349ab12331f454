"""`python -m research.interop export --format=onnx`: a classifier as an ONNX program, for ONNX Runtime and others.

The converter is jax2onnx, which needs no TensorFlow. It knows the operations of image and video classifiers; decoding
loops are not among them, for which there is stablehlo.py. What it makes is run by ONNX Runtime and compared with JAX
before it is written.
"""

import contextlib
import importlib.util
import io
import json
import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export as jax_export
from jax.extend import core as jax_core

from research.config import Experiments
from research.interop import runs, stablehlo
from research.interop.folders import atomic_directory
from research.tasks.serving import Served

_PACKAGES = ("jax2onnx", "onnx", "onnxruntime")
_CHECKED = (1, 3)  # batch sizes
_TOLERANCE = 1e-4  # of logits, relative to the largest one
_ONE_FILE = 1_900_000_000  # bytes; protocol buffers end at 2 GiB, so the weights of larger models are in another file


def run(workdir: str, path: str, experiments: Experiments) -> list[str]:
    """Writes the selected checkpoint of the run in `workdir` as `model.onnx`, with `model.json`, to the folder `path`.

    The program takes images (or clips) uint8 [batch, height, width, channels] of any batch size and returns logits. Its
    weights are constants.

    `experiments` maps the name of an experiment to the class of its configs. Returns lines for the user. Raises
    ValueError for a task that is not classification of images or clips, and for a model that cannot be converted or
    gives other logits than JAX.
    """
    for package in _PACKAGES:
        if importlib.util.find_spec(package) is None:
            raise ValueError(f"--format=onnx needs {package}; install Tessera with the extra [onnx]")
    source, target = runs.open_run(Path(workdir), experiments), Path(path)
    (batch,) = jax_export.symbolic_shape("batch")
    served = source.task.serve_inputs(batch) if isinstance(source.task, Served) else {}
    if len(served) != 1 or next(iter(served.values())).dtype != jnp.uint8:
        raise ValueError(
            f"a {type(source.model).__name__} cannot be exported as ONNX, only classifiers of images and clips can be; "
            "use --format=stablehlo"
        )
    if target.exists() and (target.is_file() or any(target.iterdir())):
        raise ValueError(f"{path} exists; name a new folder")
    names = sorted(source.tensors.specs)
    variables = stablehlo.tree(names, [jnp.asarray(source.tensors.read(name)) for name in names])
    ((name, spec),) = served.items()
    serve = lambda images: source.task.serve(variables, images)
    with atomic_directory(target) as folder:
        largest = write(serve, spec, name, folder / "model.onnx")
        shape = [str(size) for size in spec.shape]
        about = {"inputs": {name: [shape, str(spec.dtype)]}, "checked_against_jax": {"largest_difference": largest}}
        (folder / "model.json").write_text(json.dumps(about, indent=2) + "\n")
    return [f"wrote {path}/model.onnx; on random inputs its logits differ from JAX by up to {largest:.1e}"]


def write(serve: Any, spec: jax.ShapeDtypeStruct, name: str, path: Path) -> float:
    """Writes the program; returns its largest difference from JAX. Raises ValueError if it cannot be converted."""
    import onnx  # pyright: ignore[reportMissingImports]
    from jax2onnx import to_onnx  # pyright: ignore[reportMissingImports]

    # Traced here: the converter would replace functions of Flax and JAX by its own while it traces, which take other
    # arguments and compute in float64 here and there.
    traced = jax_core.jaxpr_as_fun(jax.make_jaxpr(serve)(spec))
    try:
        with _quietly():
            model = to_onnx(lambda images: traced(images)[0], [spec], model_name="tessera")
        # The inner shapes that jax2onnx 0.13 states are wrong around convolutions; ONNX Runtime infers them itself.
        del model.graph.value_info[:]
        _rename(model.graph, model.graph.input[0].name, name)
        external = model.ByteSize() > _ONE_FILE
        onnx.save_model(model, str(path), save_as_external_data=external, location="weights.bin" if external else None)
        return _difference(serve, spec, path)
    except _DifferentError as error:
        raise ValueError(f"{error}; use --format=stablehlo") from None
    except Exception as error:  # whatever converter and runtime raise for what they do not know
        why = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise ValueError(f"this model cannot be converted to ONNX ({why}); use --format=stablehlo") from error


class _DifferentError(Exception):
    """The converted program computes something else."""


def _rename(graph: Any, before: str, after: str) -> None:
    """Renames the input of a graph."""
    graph.input[0].name = after
    for node in graph.node:
        for position, used in enumerate(node.input):
            if used == before:
                node.input[position] = after


def _difference(serve: Any, spec: jax.ShapeDtypeStruct, path: Path) -> float:
    """The largest difference of logits on random inputs of two batch sizes. Raises _DifferentError if it is large."""
    import onnxruntime  # pyright: ignore[reportMissingImports]

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    largest = 0.0
    for count in _CHECKED:
        images = np.random.default_rng(count).integers(0, 256, (count, *spec.shape[1:]), np.uint8)
        expected = np.asarray(jax.jit(serve)(images), np.float32)
        found = np.asarray(session.run(None, {session.get_inputs()[0].name: images})[0])
        difference = float(np.abs(found - expected).max()) if found.shape == expected.shape else math.nan
        if not difference <= _TOLERANCE * max(1.0, float(np.abs(expected).max())):
            raise _DifferentError(
                f"the converted program differs from JAX by {difference:.1e} for a batch of {count}, so it is not "
                "written"
            )
        largest = max(largest, difference)
    return largest


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Context manager: the converter prints and logs what does not concern users."""
    logger = logging.getLogger("onnx_ir")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(before)
