"""Runs the exported model in this folder; needs only JAX and NumPy, not the code that trained it.

from load import load
model = load()                # the model in the folder of this file
outputs = model(inputs)       # arrays with any batch size, described in model.json

python load.py INPUTS.npy ... OUTPUTS.npy

jaxlib 0.10.2 computes some programs wrongly on a CPU. `load` adds a flag to XLA_FLAGS that prevents it, which has an
effect only before JAX starts; if JAX is running already and computes wrongly, `load` raises a ValueError.
"""

import importlib.metadata
import json
import os
import sys
from pathlib import Path

import ml_dtypes
import numpy as np

SHIELD = "--xla_cpu_experimental_ynn_fusion_type="


def load(folder=Path(__file__).parent):
    """Returns a function from the inputs listed in model.json to the outputs of the model."""
    shield()
    import jax
    import jax.export

    check()
    folder = Path(folder)
    about = json.loads((folder / "model.json").read_text())
    program = jax.export.deserialize(bytearray((folder / "model.stablehlo").read_bytes()))
    weights = []
    with np.load(folder / "weights.npz", allow_pickle=False) as archive:
        for name, dtype in about["weights"].items():
            array = archive[name]
            # NumPy has no bfloat16 of its own.
            weights.append(jax.device_put(array.view(ml_dtypes.bfloat16) if dtype == "bfloat16" else array))
    call = jax.jit(program.call)

    def model(*inputs):
        if len(inputs) != len(about["inputs"]):
            raise ValueError(f"{len(inputs)} inputs were given; the model takes {', '.join(about['inputs'])}")
        return np.asarray(call(weights, *inputs))

    return model


def shield():
    """Adds the flag to XLA_FLAGS, unless it is set there, JAX is running already or jaxlib may not know it."""
    given = os.environ.get("XLA_FLAGS", "").strip()
    if SHIELD.rstrip("=") in given or (given and not given.startswith("-")):  # else it names a file
        return
    version = tuple(map(int, importlib.metadata.version("jaxlib").split(".")[:2]))
    bridge = sys.modules.get("jax._src.xla_bridge")
    if (0, 10) <= version < (0, 12) and not (bridge and bridge.backends_are_initialized()):
        os.environ["XLA_FLAGS"] = f"{given} {SHIELD}".strip()


def check():
    """Raises ValueError if this CPU is affected by jax issue 39103 or xla issue 48714 (wrong results of XLA)."""
    import jax
    import jax.numpy as jnp

    if jax.default_backend() != "cpu":
        return
    rows = np.zeros((32_769, 3), np.float32)
    rows[:, 0] = np.arange(len(rows))
    squares = jax.jit(lambda rows, matrix: jax.vmap(lambda row: jnp.sum((matrix @ row) ** 2))(rows))
    pool = jax.jit(
        lambda x: jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (2, 1), (2, 1), "VALID", base_dilation=(1, 2))
    )
    between = np.asarray(pool(np.zeros((64, 128), np.float32)))[:, 1::2]  # the maximum over padding alone, -inf
    if not np.allclose(squares(rows, np.eye(3, dtype=np.float32)), rows[:, 0] ** 2) or not np.isneginf(between).all():
        raise ValueError(
            f"jaxlib {importlib.metadata.version('jaxlib')} computes wrongly on this CPU; set XLA_FLAGS={SHIELD} "
            "before JAX starts, or install another jaxlib"
        )


if __name__ == "__main__":
    *given, written = sys.argv[1:]
    try:
        loaded = load()
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    np.save(written, loaded(*map(np.load, given)))
