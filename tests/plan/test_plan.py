"""The command: what it prints, what it refuses, and one ahead-of-time compile for a TPU slice."""

import json
import os
import subprocess
import sys
import types

import jax
import pytest

from research.measure.chips import CHIPS
from research.parallel.mesh import AXES
from research.plan import __main__ as plan
from research.plan import search, show, topology
from research.plan.estimate import Plan
from research.train.settings import Experiment
from tests.train import toy

DIGITS = "configs/image_classification/digits_vit.py:smoke"
KEYS = {
    "fits", "hbm_bytes", "peak_bytes", "argument_bytes", "temp_bytes", "model_flops", "hardware_flops",
    "collective_bytes", "collective_lower_bound_bytes", "bound_by", "step_time_s", "mfu",
}  # fmt: skip
without_libtpu = pytest.mark.skipif(not topology.has_libtpu(), reason="libtpu is not installed (the extra [tpu])")


def run(*words):
    """The command in a process of its own, since it settles how JAX starts."""
    settings = {key: value for key, value in os.environ.items() if key not in ("XLA_FLAGS", "JAX_PLATFORMS")}
    return subprocess.run(
        [sys.executable, "-m", "research.plan", *words], capture_output=True, text=True, env=settings, check=False
    )


# ---- Names of slices.


@pytest.mark.parametrize(
    ("name", "chips"), [("v5e:16x16", 256), ("v5p:4x4x8", 128), ("v6e:1x1", 1), ("v4:12x12x24", 3456), ("H100:8", 8)]
)
def test_a_slice_is_named_by_chip_and_shape(name, chips):
    chip, shape = topology.parse(name)
    assert chip is CHIPS[name.split(":")[0]]
    assert topology.Topology(name, chip, shape, (), real=False).num_chips == chips


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("v9:4x4", "unknown chip 'v9'.*choose from v4:4x4x4, v5e:4x4"),
        ("v5e", "unknown slice; for v5e choose from 1x1"),
        ("v5e:3x5", "unknown slice; for v5e choose from 1x1, 2x2"),
        ("v5p:4x4", "unknown slice; for v5p choose from 2x2x1"),
        ("v5p:4x4x6", "unknown slice"),
        ("H100:16", "N from 1 to 8"),
        ("", "unknown chip ''"),
    ],
)
def test_an_unknown_slice_is_refused_with_those_that_are_known(name, message):
    with pytest.raises(ValueError, match=message):
        topology.parse(name)


@pytest.mark.parametrize(("name", "rings"), [("v5e:8x16", [False, True]), ("v5p:2x4x4", [False, True, True])])
def test_full_dimensions_close_into_rings(name, rings):
    chip, shape = topology.parse(name)
    slice_ = topology.Topology(name, chip, shape, (), real=False)
    assert [slice_.is_ring(dimension) for dimension in range(len(shape))] == rings


def test_without_libtpu_cpu_devices_are_used(monkeypatch):
    monkeypatch.setattr(topology, "has_libtpu", lambda: False)
    slice_ = topology.describe("v5e:2x4")
    assert not slice_.real and list(slice_.devices) == jax.devices()
    with pytest.raises(ValueError, match="needs 16 virtual CPU devices, but JAX has 8"):
        topology.describe("v5e:4x4")


# ---- The search.


def test_every_mesh_is_tried_once():
    found = list(search.meshes(8, ("data", "fsdp", "tensor")))
    assert len(found) == len({tuple(mesh.values()) for mesh in found}) == 10  # 8 = 2^3 over three axes: C(5, 2)
    assert all(mesh["data"] * mesh["fsdp"] * mesh["tensor"] == 8 and mesh["sequence"] == 1 for mesh in found)


# ---- What a person reads.


def test_numbers_are_written_with_units():
    assert (show.size(0), show.size(1536), show.size(2**40), show.size(None)) == (
        "0 B",
        "1.50 KiB",
        "1.00 TiB",
        "unknown",
    )
    assert (show.amount(1.5e15, "FLOP"), show.amount(21, "")) == ("1.50 PFLOP", "21.00 ")
    assert [show.duration(s) for s in (7200, 2, 0.0123, 4e-6, None)] == [
        "2.00 h", "2.00 s", "12.30 ms", "4.00 us", "unknown"
    ]  # fmt: skip


def test_a_plan_that_does_not_fit_says_so():
    known = {
        "config": "c", "topology": "v5e:2x2", "chips": 4, "mesh": {"data": 4}, "remat": None, "microbatches": 1,
        "batch_size": 8, "num_params": 10, "memory_is_real": True, "fits": False, "hbm_bytes": 16 * 2**30,
        "peak_bytes": 32 * 2**30, "params_bytes": 1, "optimizer_bytes": 1, "ema_bytes": 0, "model_flops": 2,
        "hardware_flops": 3, "collective_lower_bound_bytes": 5,
    }  # fmt: skip
    fields = Plan.__dataclass_fields__
    text = show.table(Plan(**{name: known.get(name) for name in fields}))
    assert "does not fit" in text and "32.00 GiB of 16.00 GiB (200%)" in text and "1.500 x" in text
    assert "does not fit" in show.ranking([Plan(**{name: known.get(name) for name in fields})])


# ---- The command.


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--topology=v5e:2x2", "the following arguments are required: --config"),
        (f"--config={DIGITS}", "the following arguments are required: --topology"),
        (f"--config={DIGITS} --topology=v5e:2x2 --mesh=best", "invalid choice: 'best'"),
        (f"--config={DIGITS} --topology=v5e:2x2 --tries=0", "--tries=0 must be at least 1"),
    ],
)
def test_a_command_that_makes_no_sense_is_refused(line, message):
    with pytest.raises(ValueError, match=message):
        plan.parse(line.split())


def test_a_mistake_is_answered_in_one_line():
    for words, message in (
        ((f"--config={DIGITS}", "--topology=v5:4x4"), "unknown chip 'v5'"),
        ((f"--config={DIGITS}", "--topology=v5e:2x2", "--config.mesh.fsdp=3"), "must divide 4"),
        (("--config=configs/none.py", "--topology=v5e:2x2"), "does not exist"),
    ):
        done = run(*words)
        assert done.returncode == 2, done.stderr
        last = done.stderr.strip().splitlines()[-1]
        assert last.startswith("error: ") and message in last
        assert "Traceback" not in done.stderr


def test_a_plan_for_virtual_devices_is_indicative():
    done = run(f"--config={DIGITS}", "--topology=H100:4", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found.keys() >= KEYS
    assert found["fits"] and not found["memory_is_real"] and found["mesh"]["data"] == 4
    moved = sum(found["collective_bytes"].values())
    assert 1.0 <= moved / found["collective_lower_bound_bytes"] <= 1.02
    assert found["mfu"] == pytest.approx(
        found["model_flops"] / (found["step_time_s"] * 4 * CHIPS["H100"].peak_flops("float32"))
    )
    assert "virtual CPU devices" in done.stderr


@without_libtpu
def test_a_plan_for_a_tpu_slice():
    words = ("--config.mesh.data=1", "--config.mesh.fsdp=4", "--config.model.remat=full", "--json")
    done = run(f"--config={DIGITS}", "--topology=v5e:2x2", *words)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["memory_is_real"] and found["fits"] and found["argument_bytes"] > 0
    assert 1.1 < found["hardware_flops"] / found["model_flops"] < 4 / 3
    assert found["collective_bytes"].keys() >= {"all-gather", "reduce-scatter"}
    assert found["bound_by"] in ("compute", "hbm", "links") and 0 < found["mfu"] < 1


@without_libtpu
@pytest.mark.long
def test_a_large_vit_moves_little_more_than_it_must():
    """The goal of the performance experiment's suite `plan`: 1.2 times the lower bound, with remat and fsdp."""
    config = "configs/image_classification/imagenet_vit_l16.py"
    mesh = ("--config.mesh.data=1", "--config.mesh.fsdp=16", "--config.train.batch_size=256")
    done = run(f"--config={config}", "--topology=v5e:4x4", *mesh, "--config.model.remat=full", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert 1 <= sum(found["collective_bytes"].values()) / found["collective_lower_bound_bytes"] <= 1.2


def test_the_search_goes_past_meshes_that_a_model_refuses(monkeypatch):
    """With fake plans, not compiled ones: every mesh with a tensor axis is refused, as for a model without one."""
    tried = []

    def refuse(config, task, slice_, teacher):
        assert teacher == "a teacher"
        tried.append(config.mesh.sizes)
        if config.mesh.tensor > 1:
            raise ValueError("nothing to split over tensor")
        return types.SimpleNamespace(fits=True, step_time_s=float(len(tried)), peak_bytes=1, mesh=config.mesh.sizes)

    ranked = [
        search.Candidate(dict(zip(AXES, sizes, strict=True)), None, 1, 0, step, True)
        for step, sizes in enumerate([(1, 1, 8, 1), (2, 4, 1, 1), (4, 1, 2, 1), (8, 1, 1, 1), (1, 8, 1, 1)])
    ]
    monkeypatch.setattr(search, "candidates", lambda *args: ranked)
    monkeypatch.setattr(search, "make_plan", refuse)
    monkeypatch.setattr(Experiment, "build", lambda self: (None, None))
    plans = search.search(toy.make_config(), topology.describe("H100:8"), tries=2, teacher="a teacher")
    assert [plan.mesh["data"] for plan in plans] == [2, 8] and len(tried) == 4
