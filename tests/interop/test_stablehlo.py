"""The exported program runs in a process that cannot import `research`, for batches of any size."""

import json
import subprocess
import sys

import jax
import numpy as np
import pytest

from research.cli.experiments import config_class
from research.interop import exports, imports, runs, stablehlo
from research.models import decoding
from tests.interop.test_big_vision import random_weights

pytest.importorskip("flatbuffers", reason="flatbuffers is not installed; it comes with the extra [interop]")

pytestmark = pytest.mark.usefixtures("quick_compilation")
# Runs load.py of the folder it is in, with `research` out of reach.
SCRIPT = """
import runpy, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("research", "flax", "orbax"):
            raise ImportError(name + " is out of reach")
sys.meta_path.insert(0, Refuse())
try:
    import research
except ImportError:
    sys.argv = ["load.py", *sys.argv[1:]]
    runpy.run_path("load.py", run_name="__main__")
"""


def call(folder, *inputs):
    """The outputs of the program in `folder`, from another process."""
    for index, array in enumerate(inputs):
        np.save(folder / f"in{index}.npy", array)
    words = [*(f"in{index}.npy" for index in range(len(inputs))), "out.npy"]
    subprocess.run([sys.executable, "-c", SCRIPT, *words], cwd=folder, check=True)
    return np.load(folder / "out.npy")


def variables_of(run):
    """The variables of a run's model."""
    return stablehlo.tree(sorted(run.tensors.specs), [run.tensors.read(name) for name in sorted(run.tensors.specs)])


def test_images_of_any_count(tmp_path):
    np.savez(tmp_path / "vit.npz", **random_weights(image_size=8, classes=4, cls=True))
    imports.run(
        str(tmp_path / "vit.npz"), str(tmp_path / "run"), config_class, ["data.mean=(100.0,)", "data.std=(50.0,)"]
    )
    stablehlo.run(str(tmp_path / "run"), str(tmp_path / "out"), config_class)
    about = json.loads((tmp_path / "out/model.json").read_text())
    assert about["platforms"] == ["cpu", "tpu", "cuda"]
    assert about["inputs"] == {"images": [["batch", "8", "8", "3"], "uint8"]}
    program = jax.export.deserialize(bytearray((tmp_path / "out/model.stablehlo").read_bytes()))
    assert program.platforms == ("cpu", "tpu", "cuda")
    run = runs.open_run(tmp_path / "run", config_class)
    for count in (1, 3):
        images = np.random.default_rng(count).integers(0, 256, (count, 8, 8, 3), np.uint8)
        model, scaled = run.model, (images.astype(np.float32) - 100) / 50
        expected = jax.jit(lambda variables: model.apply(variables, scaled))(variables_of(run))  # noqa: B023
        np.testing.assert_allclose(call(tmp_path / "out", images), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.long
def test_texts_are_decoded(tmp_path):
    from tests.interop import reference

    reference.save(reference.t5(num_decoder_layers=2, vocab_size=60), tmp_path / "theirs")
    lengths = ["data.source_length=9", "task.max_decode_length=12"]
    imports.run(str(tmp_path / "theirs"), str(tmp_path / "run"), config_class, lengths)
    stablehlo.run(str(tmp_path / "run"), str(tmp_path / "out"), config_class)
    run = runs.open_run(tmp_path / "run", config_class)
    for count in (1, 4):
        tokens = np.random.default_rng(3).integers(4, 60, (count, 9)).astype(np.int32)
        mask = (np.arange(9) < np.array([[9], [4], [6], [1]])[:count]).astype(np.int32)
        expected = greedy(run.model, variables_of(run), tokens, mask)
        np.testing.assert_array_equal(call(tmp_path / "out", tokens, mask), expected)


@pytest.mark.long
def test_sounds_are_decoded(tmp_path):
    """From the token that Whisper begins with, to the one that it ends with."""
    from tests.interop import reference

    theirs = reference.whisper(encoder_layers=1, decoder_layers=1, max_source_positions=8)
    reference.save(theirs, tmp_path / "theirs")
    imports.run(str(tmp_path / "theirs"), str(tmp_path / "run"), config_class, ["task.max_decode_length=12"])
    stablehlo.run(str(tmp_path / "run"), str(tmp_path / "out"), config_class)
    about = json.loads((tmp_path / "out/model.json").read_text())
    assert about["inputs"] == {
        "spectrograms": [["batch", "16", "10"], "float32"], "mask": [["batch", "8"], "int32"],
    }  # fmt: skip
    run = runs.open_run(tmp_path / "run", config_class)
    sounds = np.random.default_rng(0).normal(0, 1, (3, 16, 10)).astype(np.float32)
    mask = (np.arange(8) < np.array([[8], [4], [6]])).astype(np.int32)
    expected = greedy(run.model, variables_of(run), sounds, mask, bos=7, eos=5)
    np.testing.assert_array_equal(call(tmp_path / "out", sounds, mask), expected)


def greedy(model, variables, sources, mask, bos=0, eos=1):
    """The tokens [batch, 12] that a model answers with, outside of the exported program."""
    positions = np.broadcast_to(np.arange(mask.shape[1]), mask.shape)

    @jax.jit
    def generate(variables):
        apply = lambda method, *args: model.apply(variables, *args, method=method)
        cache = apply("init_cache", apply("encode", sources, mask, positions), mask, 12)
        return decoding.greedy(lambda *args: apply("decode_step", *args), cache, len(sources), 12, bos, eos)[0]

    return generate(variables)


def test_the_folder_may_not_exist(tmp_path):
    np.savez(tmp_path / "vit.npz", **random_weights(image_size=8, classes=4, cls=False))
    imports.run(str(tmp_path / "vit.npz"), str(tmp_path / "run"), config_class)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine").touch()
    with pytest.raises(ValueError, match="exists; name a new folder"):
        stablehlo.run(str(tmp_path / "run"), str(tmp_path / "out"), config_class)
    with pytest.raises(ValueError, match=r"big_vision needs a \.npz file"):
        exports.run(str(tmp_path / "run"), str(tmp_path / "new"), config_class, "big_vision")
    assert not (tmp_path / "new").exists()
