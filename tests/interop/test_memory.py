"""Importing a sharded checkpoint takes the memory of a few layers, not that of the checkpoint."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from research import numerics
from research.interop import loading
from research.interop.families import t5
from research.interop.safetensors import TensorSpec, write_sharded
from research.models.seq2seq import Seq2Seq, Seq2SeqSpec

SIZE = {"width": 512, "encoder_depth": 24, "decoder_depth": 24, "num_heads": 8, "kv_dim": 64, "mlp_dim": 2816}
SCRIPT = """
import resource, sys
from research.cli.experiments import config_class
from research.interop import imports, runs
import research.train.trainer
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
imports.run(*sys.argv[1:], config_class)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


def peak_bytes(path, workdir):
    """By how much an import raised the most memory that a process of its own ever held."""
    env = os.environ | {"XLA_FLAGS": numerics.SHIELD, "PYTHONPATH": os.getcwd()}
    words = [sys.executable, "-c", SCRIPT, path, workdir]
    done = subprocess.run([*map(str, words)], env=env, capture_output=True, text=True, check=True)
    return int(done.stdout.splitlines()[-1])


def save(folder, **size):
    """A T5 of random numbers, written one tensor after the other; returns its bytes."""
    folder.mkdir()
    model, rng = Seq2Seq(Seq2SeqSpec(**size), vocab_size=1000), np.random.default_rng(0)
    rows, specs = {row.ours: row for row in t5.table(model)}, {}
    for path, leaf in loading.leaves_of(loading.abstract(model)).items():
        shape = rows[path].their_shape(leaf.shape)
        specs |= {name: TensorSpec(shape, np.dtype(np.float32)) for name in rows[path].names(leaf.shape)}
    write_sharded(folder, specs, lambda name: rng.random(specs[name].shape, np.float32), 100_000_000)
    (folder / "config.json").write_text(json.dumps(t5.config(model)))
    return sum(4 * int(np.prod(spec.shape)) for spec in specs.values())


@pytest.mark.long
def test_an_import_never_holds_the_checkpoint(tmp_path):
    small = SIZE | {"encoder_depth": 1, "decoder_depth": 1}
    save(tmp_path / "small", **small)
    total = save(tmp_path / "large", **SIZE)
    assert len(list((tmp_path / "large").glob("*.safetensors"))) > 5 and total > 1e9
    overhead = peak_bytes(tmp_path / "small", tmp_path / "small_run")  # of a model of one layer: compilers, libraries
    peak = peak_bytes(tmp_path / "large", tmp_path / "large_run")
    print(f"{peak / 1e6:.0f} MB for {total / 1e6:.0f} MB, {overhead / 1e6:.0f} MB for one layer")
    assert peak - overhead < total / 5
