"""Runs the exported model of this folder; it needs jax and NumPy, and nothing of the code that trained it.

from load import load
model = load()                # of the folder that this file is in
outputs = model(inputs)       # arrays of a batch of any size; model.json says which

python load.py INPUTS.npy ... OUTPUTS.npy
"""

import json
import sys
from pathlib import Path

import jax
import jax.export
import ml_dtypes
import numpy as np


def load(folder=Path(__file__).parent):
    """A function from the inputs that model.json names to the outputs of the model."""
    folder = Path(folder)
    about = json.loads((folder / "model.json").read_text())
    program = jax.export.deserialize(bytearray((folder / "model.stablehlo").read_bytes()))
    weights = []
    with np.load(folder / "weights.npz", allow_pickle=False) as archive:
        for name, dtype in about["weights"].items():
            array = archive[name]
            # NumPy itself knows no bfloat16.
            weights.append(jax.device_put(array.view(ml_dtypes.bfloat16) if dtype == "bfloat16" else array))
    call = jax.jit(program.call)

    def model(*inputs):
        if len(inputs) != len(about["inputs"]):
            raise ValueError(f"{len(inputs)} inputs were given; model.json names {', '.join(about['inputs'])}")
        return np.asarray(call(weights, *inputs))

    return model


if __name__ == "__main__":
    *given, written = sys.argv[1:]
    np.save(written, load()(*map(np.load, given)))
