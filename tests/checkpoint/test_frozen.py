"""Frozen parameters are written once: resumed, damaged, rebuilt, on other meshes and in what reads a checkpoint."""

import shutil

import jax
import numpy as np
import pytest

from research.checkpoint import seal, store
from research.checkpoint.frozen import FrozenError
from research.checkpoint.reading import CheckpointTensors
from research.parallel import mesh as mesh_lib
from research.train import trainer
from research.train.feed import to_mesh
from research.train.program import build_program
from tests.checkpoint.test_store import wider_task
from tests.killing import outcome
from tests.train import toy

FREEZE = {"optimizer.freeze": ("hidden", "head/bias")}
FROZEN = {f"{tree}params/{path}" for tree in ("", "ema/") for path in ("hidden/kernel", "head/bias")}


def program(devices=1, width=16, **settings):
    config = toy.make_config(**{**FREEZE, **settings})
    return build_program(config, wider_task(width), mesh_lib.make_mesh(config.mesh.sizes, jax.devices()[:devices]))


def open_checkpoints(folder, write=True, lines=None):
    warn = (lines if lines is not None else []).append
    return store.Checkpoints(str(folder), 2, 1, "max", warn=warn, write=write)


def train(workdir, **settings):
    return trainer.run("train", toy.make_config(**{**FREEZE, **settings}), toy.make_task(), toy.Data(), workdir)


def size(folder):
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def folders(checkpoints):
    return sorted(child.name for child in checkpoints.iterdir() if child.name.startswith("frozen-"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("finished") / "run"
    train(workdir)
    return workdir


@pytest.fixture
def workdir(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


def damage(workdir, content=b"\0"):
    """Overwrites the arrays of the frozen leaves."""
    (name,) = folders(workdir / "checkpoints")
    for path in (workdir / "checkpoints" / name).rglob("d/*"):
        path.write_bytes(content * path.stat().st_size)


def test_checkpoints_hold_what_is_trained_and_one_folder_the_rest(tmp_path):
    """Of 4,096 hidden units the kernel is frozen: 16 x 4,096 of float32, and its average is not written again."""
    whole, part = program(width=4096, **{"optimizer.freeze": ()}), program(width=4096)
    kernel = 16 * 4096 * 4
    for name, each in (("whole", whole), ("part", part)):
        checkpoints = open_checkpoints(tmp_path / name)
        for step in (1, 2, 3):
            checkpoints.save(each, step, each.init(), {}, None)
        checkpoints.close()
    assert part.frozen == FROZEN and whole.frozen == frozenset()
    assert folders(tmp_path / "whole") == [] and len(folders(tmp_path / "part")) == 1
    assert seal.steps(tmp_path / "part") == [2, 3]  # as many as are kept
    # The kernel, its two moments, and its average: random numbers, which no compression makes smaller.
    assert size(tmp_path / "whole/3") - size(tmp_path / "part/3") > 1.5 * kernel
    assert size(tmp_path / "part/3/state") < 1.2 * (16 + 4 * 4) / 16 * kernel
    assert 0.9 * kernel < size(tmp_path / "part" / folders(tmp_path / "part")[0]) < 1.2 * kernel


@pytest.mark.parametrize("sizes", [{"data": 8}, {"fsdp": 2, "tensor": 2}])
def test_any_mesh_reads_them_bit_for_bit_and_so_does_what_needs_no_mesh(sizes, workdir):
    one, many = program(mesh={"data": 1}), program(int(np.prod(list(sizes.values()))), mesh={"data": 1} | sizes)
    first = jax.device_get(one.init())
    step, state, meta = open_checkpoints(workdir / "checkpoints").restore(many)
    assert step == 12 and set(meta["frozen"]["leaves"]) == FROZEN
    for tree in (state.params, state.ema["params"]):
        np.testing.assert_array_equal(tree["hidden"]["kernel"], first.params["hidden"]["kernel"])
        np.testing.assert_array_equal(tree["head"]["bias"], first.params["head"]["bias"])
        assert np.abs(tree["head"]["kernel"] - first.params["head"]["kernel"]).max() > 0
    for leaf, like in zip(jax.tree.leaves(state), jax.tree.leaves(many.state), strict=True):
        assert leaf.sharding == like.sharding
    batch = next(toy.Data().train_batches(0, 16))
    many.train_step(state, to_mesh(batch, many.batch_sharding))  # no buffer is donated twice
    tensors = CheckpointTensors(workdir / "checkpoints" / "12")
    np.testing.assert_array_equal(tensors.read("hidden/kernel"), first.params["hidden"]["kernel"])
    np.testing.assert_array_equal(tensors.read("head/bias"), first.params["head"]["bias"])


def test_a_run_that_was_killed_in_or_after_the_first_write_ends_in_the_same_bits(finished, tmp_path, monkeypatch):
    def killed(self, *args, **options):
        raise OSError("killed")

    with monkeypatch.context() as patched:
        patched.setattr(store._Manager, "save", killed)
        with pytest.raises(Exception, match="cannot write checkpoint 3"):
            train(tmp_path / "run")
    checkpoints = tmp_path / "run/checkpoints"
    assert len(folders(checkpoints)) == 1 and seal.steps(checkpoints) == []
    damage(tmp_path / "run")  # nobody has read it since
    (checkpoints / f"{folders(checkpoints)[0]}.orbax-checkpoint-tmp-1").mkdir()  # of a kill within the first write
    train(tmp_path / "run")
    assert outcome(tmp_path / "run", 12) == outcome(finished, 12)
    assert folders(checkpoints) == folders(finished / "checkpoints")


def test_damaged_ones_are_named_and_no_checkpoint_is_set_aside(workdir):
    damage(workdir)
    (name,), lines = folders(workdir / "checkpoints"), []
    for write in (True, False):
        with pytest.raises(FrozenError, match=rf"{name}, which holds the frozen .* is damaged \(.*; copy that folder"):
            open_checkpoints(workdir / "checkpoints", write, lines).restore(program())
    assert lines == [] and seal.steps(workdir / "checkpoints") == [9, 12] and not (workdir / "damaged").exists()
    with pytest.raises(ValueError, match="frozen-"):
        CheckpointTensors(workdir / "checkpoints" / "12").read("hidden/kernel")
    with pytest.raises(FrozenError):
        trainer.predict(toy.make_config(**FREEZE), toy.make_task(), toy.Data(), workdir, {})


def test_training_writes_damaged_ones_again_from_where_they_came(workdir, finished, capsys):
    damage(workdir)
    shutil.rmtree(workdir / "checkpoints/12")
    train(workdir)
    assert "with the frozen parameters, was damaged; it is written again" in capsys.readouterr().err
    assert outcome(workdir, 12) == outcome(finished, 12)
    assert folders(workdir / "checkpoints") == folders(finished / "checkpoints")


def test_those_of_another_run_do_not_take_their_place(workdir, tmp_path):
    """A seed gives other parameters, whose digest is another one."""
    build = program(seed=1)
    other = open_checkpoints(tmp_path / "other")
    other.save(build, 1, build.init(), {}, None)
    other.close()
    (ours,), (theirs,) = folders(workdir / "checkpoints"), folders(tmp_path / "other")
    assert ours != theirs
    shutil.rmtree(workdir / "checkpoints" / ours)
    shutil.copytree(tmp_path / "other" / theirs, workdir / "checkpoints" / ours)
    with pytest.raises(FrozenError, match=r"the checksum of \S+/hidden/kernel differs") as caught:
        open_checkpoints(workdir / "checkpoints").restore(program())
    assert not open_checkpoints(workdir / "checkpoints").rebuild(program(), build.init(), caught.value)


def test_what_no_checkpoint_names_is_deleted(tmp_path):
    first, second = program(), program(seed=1)
    for build in (first, second):
        shutil.rmtree(tmp_path / "c/1", ignore_errors=True)
        checkpoints = open_checkpoints(tmp_path / "c")
        checkpoints.save(build, 1, build.init(), {}, None)
        checkpoints.close()
    (name,) = folders(tmp_path / "c")
    assert seal.read(tmp_path / "c/1")["frozen"]["folder"] == name
