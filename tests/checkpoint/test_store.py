"""Damage is noticed, any mesh reads any checkpoint, and a checkpoint that does not fit is refused."""

import dataclasses
import re
import shutil

import jax
import numpy as np
import pytest
from jax.experimental import multihost_utils

from research.checkpoint.store import Checkpoints
from research.parallel import mesh as mesh_lib
from research.train import trainer
from research.train.program import build_program
from tests.train import toy


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run on a mesh of 8 devices."""
    workdir = tmp_path_factory.mktemp("finished") / "run"
    trainer.run("train", toy.make_config(), toy.make_task(), toy.Data(), workdir)
    return workdir


@pytest.fixture
def workdir(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


def open_checkpoints(workdir, lines=None):
    return Checkpoints(str(workdir / "checkpoints"), 2, 1, "max", warn=(lines if lines is not None else []).append)


def program(**mesh):
    config = toy.make_config(mesh={"data": 1, "fsdp": 1, "tensor": 1, "sequence": 1} | mesh)
    devices = jax.devices()[: int(np.prod(list(config.mesh.sizes.values())))]
    return build_program(config, toy.make_task(), mesh_lib.make_mesh(config.mesh.sizes, devices))


def flip_a_bit(step, folders=("d", "ocdbt.process_0/d")):
    """Changes one bit in the middle of the largest file of each of Orbax's folders of array data."""
    for folder in (step / "state" / name for name in folders):
        path = max(folder.iterdir(), key=lambda path: path.stat().st_size)
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 0x10
        path.write_bytes(content)


def truncate(step):
    for path in step.rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def remove_metadata(step):
    (step / "_CHECKPOINT_METADATA").unlink()
    shutil.rmtree(step / "meta")


@pytest.mark.parametrize("damage", [flip_a_bit, truncate, remove_metadata])
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_is_used(damage, workdir):
    damage(workdir / "checkpoints" / "12")
    lines = []
    step, _, _ = open_checkpoints(workdir, lines).restore(program(data=8))
    assert step == 9
    assert len(lines) == 1 and lines[0].startswith("checkpoint 12 is damaged") and "\n" not in lines[0]
    assert (workdir / "damaged" / "12").exists()


def test_training_goes_on_after_damage_and_ends_the_same(workdir, finished):
    flip_a_bit(workdir / "checkpoints" / "12")
    again = trainer.run("train", toy.make_config(), toy.make_task(), toy.Data(), workdir)
    assert again["metrics"] == (trainer.rundir.read_json(finished / "result.json"))["metrics"]


@pytest.mark.parametrize("sizes", [{"data": 4, "fsdp": 2}, {"fsdp": 2, "tensor": 2}, {"data": 1}])
def test_any_mesh_reads_any_checkpoint(sizes, workdir):
    wide, narrow = program(data=8), program(**sizes)
    _, expected, _ = open_checkpoints(workdir).restore(wide)
    step, state, _ = open_checkpoints(workdir).restore(narrow)
    assert step == 12
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        assert leaf.sharding.mesh.shape == narrow.mesh.shape, path
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(state), jax.device_get(expected))
    np.testing.assert_array_equal(narrow.checksums(state), wide.checksums(expected))


def test_a_flipped_bit_that_orbax_reads_without_complaint_is_noticed(tmp_path):
    # Wide enough for the arrays to lie in files of their own, where Orbax checks nothing. Which is the largest differs
    # from run to run.
    config = toy.make_config(**{"train.ema": 0.0})
    build = build_program(config, wider_task(4096), mesh_lib.make_mesh(config.mesh.sizes))
    lines = []
    checkpoints = Checkpoints(str(tmp_path / "checkpoints"), 2, 1, "max", warn=lines.append)
    state = build.init()
    for step in (1, 2):
        checkpoints.save(build, step, state, {}, None)
    checkpoints.wait()
    flip_a_bit(tmp_path / "checkpoints" / "2", folders=("ocdbt.process_0/d",))
    assert checkpoints.restore(build)[0] == 1
    assert re.search(r"the checksum of \S+/kernel differs", lines[0]), lines[0]


def test_a_checkpoint_of_another_model_is_refused_and_left_alone(workdir):
    config = toy.make_config()
    wider = build_program(config, wider_task(32), mesh_lib.make_mesh(config.mesh.sizes))
    with pytest.raises(
        ValueError,
        match=r"does not fit this config: params/head/kernel is float32\[16, 4\] there, float32\[32, 4\] here",
    ):
        open_checkpoints(workdir).restore(wider)
    assert (workdir / "checkpoints" / "12").exists()


def wider_task(width):
    return dataclasses.replace(toy.make_task(), model=toy.Net(width=width))


def test_best_and_last_are_kept(tmp_path):
    checkpoints, build = Checkpoints(str(tmp_path / "c"), 2, 1, "max"), program()
    state = build.init()
    for step, score in enumerate([0.1, 0.9, None, 0.3, 0.2], start=1):
        checkpoints.save(build, step, state, {}, score)
    checkpoints.wait()
    assert checkpoints.best_step() == 2
    checkpoints.close()
    assert sorted(int(p.name) for p in (tmp_path / "c").iterdir() if p.name.isdigit()) == [2, 4, 5]


def test_a_step_can_be_saved_again_with_its_score(tmp_path):
    checkpoints, build = Checkpoints(str(tmp_path / "c"), 2, 1, "max"), program()
    state = build.init()
    checkpoints.save(build, 3, state, {}, None)
    checkpoints.wait()
    assert not checkpoints.has_score(3)
    checkpoints.save(build, 3, state, {}, 0.5)
    checkpoints.wait()
    assert checkpoints.has_score(3) and checkpoints.best_step() == 3
    assert checkpoints.restore(build)[0] == 3


def test_a_flipped_bit_changes_the_checksum_of_its_array_alone():
    build = program()
    state = build.init()
    before = np.asarray(build.checksums(state))
    kernel = np.asarray(state.params["head"]["kernel"])
    for place, bit in [(0, 0), (0, 31), (17, 12), (kernel.size - 1, 30)]:
        words = kernel.copy().view(np.uint32).ravel()
        words[place] ^= np.uint32(1 << bit)
        params = dict(state.params) | {
            "head": state.params["head"] | {"kernel": words.view(np.float32).reshape(kernel.shape)}
        }
        assert (np.asarray(build.checksums(state.replace(params=params))) != before).sum() == 1


def test_saving_leaves_the_ticks_of_preemption_alone(tmp_path, monkeypatch):
    """On several processes a step told to JAX between two ticks would make all of them miss a SIGTERM."""
    told = []
    monkeypatch.setattr(multihost_utils, "reached_preemption_sync_point", lambda tick: bool(told.append(tick)))
    made, checkpoints = program(), open_checkpoints(tmp_path)
    checkpoints.save(made, 3, made.init(), {}, score=None)
    checkpoints.close()
    assert (tmp_path / "checkpoints" / "3").exists() and told == []
