"""`config.train.init_from`: training begins with the weights of a checkpoint, whatever the mesh."""

import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from research.checkpoint.reading import CheckpointTensors
from research.checkpoint.store import Checkpoints
from research.cli import experiments
from research.interop import initial_weights, loading, npz, positions
from research.interop.families import big_vision
from research.models.vit import ViT
from research.tasks import classification
from research.train import trainer
from tests.train import toy

pytestmark = pytest.mark.usefixtures("quick_compilation")
SIZE = {"width": 16, "depth": 2, "mlp_dim": 24, "num_heads": 2, "patch_size": 2, "gelu": "tanh"}


def big_vision_file(path, image_size=4, classes=4, channels=1, seed=0, **fields):
    """A ViT as big_vision writes it, with random weights; and our model with them."""
    model = ViT.of(classes, image_size=image_size, **(SIZE | fields))
    rng = np.random.default_rng(seed)
    shapes = loading.abstract(model, channels)
    params = jax.tree.map(lambda leaf: rng.normal(0, 0.5, leaf.shape).astype(leaf.dtype), shapes["params"])
    if model.spec.pool == "cls":
        params["positions"][:, 0] = 0  # which big_vision has none for
    rows = {row.ours: row for row in big_vision.table(model)}
    tensors = {}
    for name, leaf in loading.leaves_of({"params": params}).items():
        tensors |= {theirs: make() for theirs, make in rows[name].write(lambda leaf=leaf: leaf, leaf.shape)}
    np.savez(path, **tensors)
    return model, params


def config_of(path, **overrides):
    return toy.make_config(**{"train.init_from": str(path), "train.steps": 2, "optimizer.warmup_steps": 0} | overrides)


def task_of(image_size=4, classes=4, **fields):
    model = ViT.of(classes, image_size=image_size, **(SIZE | fields))
    return classification.ClassificationTask(model, (image_size, image_size, 1), (128.0,), (74.0,))


def begun(config, task, devices=None):
    """The first state of a run, and the report of its weights."""
    program = trainer.build(config, task, devices)
    weights = experiments.load_weights(config.train, task, program, toy.Data())
    return weights.state(program.init()), weights, program


@pytest.mark.parametrize("mesh", [{}, {"fsdp": 2, "tensor": 2}])
def test_every_parameter_is_loaded_into_its_shards(mesh, tmp_path):
    _, params = big_vision_file(tmp_path / "vit.npz")
    config = config_of(tmp_path / "vit.npz", **{f"mesh.{axis}": size for axis, size in mesh.items()})
    state, weights, program = begun(config, task_of(), jax.devices()[:4])
    assert weights.report()["fresh"] == {} and weights.report()["left_over"] == []
    for tree in (state.params, state.ema["params"]):
        jax.tree.map(np.testing.assert_array_equal, tree, params)
    equal = jax.tree.map(lambda leaf, like: leaf.sharding == like.sharding, state, program.state)
    assert jax.tree.all(equal)


@pytest.mark.long
def test_a_run_begins_with_the_weights_and_keeps_the_report(tmp_path, capsys):
    """A learning rate of nearly nothing leaves them as they are; a run that goes on needs the file no more."""
    _, params = big_vision_file(tmp_path / "vit.npz", classes=7)
    config = config_of(tmp_path / "vit.npz", **{"optimizer.learning_rate": 1e-30, "optimizer.weight_decay": 0.0})
    trainer.run("train", config, task_of(), toy.Data(), tmp_path / "run", experiments.load_weights)
    report = json.loads((tmp_path / "run/init_from.json").read_text())
    assert sorted(report["fresh"]) == ["head/bias", "head/kernel"]
    assert report["left_over"] == ["head/bias", "head/kernel"]
    assert "initialised head/kernel: head/kernel is [16, 7], of other classes" in capsys.readouterr().err
    (tmp_path / "vit.npz").unlink()
    trainer.run("train", config_of(tmp_path / "vit.npz", **{
        "optimizer.learning_rate": 1e-30, "optimizer.weight_decay": 0.0, "train.steps": 4,
    }), task_of(), toy.Data(), tmp_path / "run", experiments.load_weights)  # fmt: skip

    folder = tmp_path / "run/checkpoints/4"
    tensors = CheckpointTensors(folder)
    for name, leaf in loading.leaves_of({"params": params}).items():
        if not name.startswith("head"):
            np.testing.assert_allclose(tensors.read(name), leaf, rtol=1e-6, atol=1e-12)


def test_skipped_parameters_are_fresh(tmp_path):
    _, params = big_vision_file(tmp_path / "vit.npz")
    config = config_of(tmp_path / "vit.npz", **{"train.init_skip": ("^blocks/mlp/", "cls")})
    state, weights, program = begun(config, task_of())
    fresh = program.init().params
    mlp = {f"blocks/mlp/{d}/{k}" for d in ("up", "down") for k in ("kernel", "bias")}
    assert set(weights.plan.fresh) == {"cls"} | mlp
    jax.tree.map(np.testing.assert_array_equal, state.params["blocks"]["mlp"], fresh["blocks"]["mlp"])
    np.testing.assert_array_equal(state.params["patches"]["kernel"], params["patches"]["kernel"])


def bilinear(grid, side):
    """Plain loops over half-pixel centres, for grids that grow."""
    old, result = len(grid), np.zeros((side, side, grid.shape[-1]))
    for y in range(side):
        for x in range(side):
            v, u = (min(max((place + 0.5) * old / side - 0.5, 0), old - 1) for place in (y, x))
            i, j = min(int(v), old - 2), min(int(u), old - 2)
            a, b = v - i, u - j
            result[y, x] = (1 - a) * ((1 - b) * grid[i, j] + b * grid[i, j + 1])
            result[y, x] += a * ((1 - b) * grid[i + 1, j] + b * grid[i + 1, j + 1])
    return result


def test_positions_are_resized_to_other_images(tmp_path):
    _, params = big_vision_file(tmp_path / "vit.npz", image_size=6)
    state, weights, _ = begun(config_of(tmp_path / "vit.npz"), task_of(image_size=14))
    assert weights.report()["resized"] == {"positions": [[1, 10, 16], [1, 50, 16]]}
    ours = np.asarray(state.params["positions"])[0]
    expected = bilinear(params["positions"][0, 1:].reshape(3, 3, 16).astype(np.float64), 7)
    np.testing.assert_allclose(ours[1:].reshape(7, 7, 16), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(ours[0], params["positions"][0, 0])


@pytest.mark.parametrize(("old", "new"), [(9, 9), (10, 10), (9, 10), (10, 9), (64, 16), (17, 5), (1, 16)])
def test_resizing_keeps_constants_and_the_class_token(old, new):
    rng = np.random.default_rng(0)
    cls, grid = rng.normal(size=(1, 1, 3)), np.ones((1, old - (old in (10, 17)), 1)) * np.array([1.0, -2.0, 0.5])
    whole = grid if old not in (10, 17) else np.concatenate([cls, grid], 1)
    resized = positions.resize(whole.astype(np.float32), new)
    assert resized.shape == (1, new, 3)
    has_cls = new in (10, 5)
    np.testing.assert_allclose(resized[:, has_cls:], np.broadcast_to(grid[:, :1], (1, new - has_cls, 3)), rtol=1e-6)
    if has_cls:
        expected = cls[0, 0] if old in (10, 17) else 0
        np.testing.assert_allclose(resized[0, 0], expected * np.ones(3), rtol=1e-6)


@pytest.mark.long
def test_a_run_directory_is_a_source_too(tmp_path):
    """Its averaged weights, which are those that it evaluates."""
    config = toy.make_config(**{"train.steps": 3})
    trainer.run("train", config, toy.make_task(), toy.Data(), tmp_path / "first")
    tensors_at = tmp_path / "first/checkpoints/3"

    tensors = CheckpointTensors(tensors_at)
    assert set(tensors.specs) == {"head/bias", "head/kernel", "hidden/kernel", "norm/bias", "norm/scale", "norm/mean", "norm/var"}  # noqa: E501  # fmt: skip
    program = trainer.build(config, toy.make_task())
    state = Checkpoints(str(tmp_path / "first/checkpoints"), 1, 1, "max").restore(program)[1]
    for name, leaf in loading.leaves_of(state.ema).items():
        np.testing.assert_array_equal(tensors.read(name), leaf)


def refusal(path, task=None, **overrides):
    config, task = config_of(path, **overrides), task or task_of()
    with pytest.raises(ValueError) as caught:
        experiments.load_weights(config.train, task, trainer.build(config, task), toy.Data())
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_does_not_fit_is_refused(tmp_path):
    path = tmp_path / "vit.npz"
    big_vision_file(path)
    assert "config.model.gelu='exact', but " in refusal(path, task_of(gelu="exact"))
    assert "config.model.num_heads=4, but " in refusal(path, task_of(num_heads=4))
    assert "config.model.depth=3, but " in refusal(path, task_of(depth=3))
    assert "holds a ViT, but the config has a Net" in refusal(path, toy.make_task())
    with pytest.raises(ValueError, match="must be a regular expression"):
        config_of(path, **{"train.init_skip": ("(",)})
    np.savez(tmp_path / "pickle.npz", weights=np.array([{}], object))
    assert "holds pickled Python objects, which could run code" in refusal(tmp_path / "pickle.npz")
    path.write_bytes(path.read_bytes()[:500])
    assert "is not a .npz archive, or is truncated" in refusal(path)
    (tmp_path / "weights.pt").write_bytes(b"")
    assert "is not read: such a file could run code" in refusal(tmp_path / "weights.pt")


class Unprepared(toy.Data):
    """Data that nothing asks for."""

    def prepare(self):
        pytest.fail("prepared before the weights were known to fit")


def test_nothing_is_written_when_weights_are_refused(tmp_path):
    with pytest.raises(ValueError, match="there is no checkpoint"):
        trainer.run(
            "train", config_of(tmp_path / "none"), task_of(), Unprepared(), tmp_path / "run", experiments.load_weights
        )
    assert not (tmp_path / "run").exists()
    with pytest.raises(ValueError, match=r"needs config\.train\.init_from"):
        config = toy.make_config(**{"train.init_skip": ("head",)})
        trainer.run("train", config, task_of(), toy.Data(), tmp_path / "run", experiments.load_weights)


def test_a_vocabulary_that_is_trained_is_compared_once_it_is_there(tmp_path):
    """It is not known before data are prepared, and nothing is written by then."""
    plan = SimpleNamespace(checkpoint=SimpleNamespace(path="a", vocabulary="abc"), state=None, lines=None, report=None)
    words = SimpleNamespace(given=False)

    class Words(toy.Data):
        def prepare(self):
            words.digest = "xyz"
            return super().prepare()

    found = lambda *given: initial_weights.InitialWeights(plan, words, ["embedding"])
    with pytest.raises(ValueError, match="was trained with the vocabulary abc, but these data have xyz"):
        trainer.run("train", config_of(tmp_path / "any"), toy.make_task(), Words(), tmp_path / "run", found)
    assert not (tmp_path / "run").exists()


def test_only_what_a_shard_needs_is_read(tmp_path):
    """One layer and a few columns of a stacked parameter: the other layers' tensors are not touched."""
    model, params = big_vision_file(tmp_path / "vit.npz")
    archive, touched = npz.Npz(tmp_path / "vit.npz"), []

    class Watched:
        specs = archive.specs

        def read(self, name):
            touched.append(name)
            return archive.read(name)

    row = next(row for row in big_vision.table(model) if row.ours == "blocks/mlp/up/kernel")
    part = row.read(Watched(), (2, 16, 24), (slice(1, 2), slice(None), slice(4, 8)), np.float32)
    np.testing.assert_array_equal(part, params["blocks"]["mlp"]["up"]["kernel"][1:2, :, 4:8])
    assert touched == ["Transformer/encoderblock_1/MlpBlock_0/Dense_0/kernel"]


def test_embeddings_of_another_vocabulary_are_refused():
    checkpoint = SimpleNamespace(path="runs/other", vocabulary="abc")
    ours, named = (SimpleNamespace(digest="xyz", given=given) for given in (False, True))
    with pytest.raises(
        ValueError, match=r"runs/other was trained with the vocabulary abc, but these data have xyz; set"
    ):
        initial_weights._check_vocabulary(checkpoint, ours, ["embedding"])
    with pytest.raises(ValueError, match=r"these data have xyz; set .*init_skip=\('\^embedding\$', '\^head\$',\)"):
        initial_weights._check_vocabulary(checkpoint, named, ["embedding", "head"])
    initial_weights._check_vocabulary(SimpleNamespace(path="a", vocabulary="xyz"), ours, ["embedding"])
    unknown = SimpleNamespace(path="a", vocabulary="")  # of another library
    initial_weights._check_vocabulary(unknown, named, ["embedding"])
    with pytest.raises(ValueError, match="a was trained with a vocabulary that is not stored with it; set"):
        initial_weights._check_vocabulary(unknown, ours, ["embedding"])


def test_arrays_that_a_run_has_not_saved_are_refused(tmp_path):
    """The arrays of two checkpoints were swapped: each is intact, and none is what its checksums say."""
    config = toy.make_config(**{"train.steps": 4, "train.eval_every": 2, "train.checkpoint_every": 2})
    trainer.run("train", config, toy.make_task(), toy.Data(), tmp_path / "run")
    folder = tmp_path / "run/checkpoints"
    before = CheckpointTensors(folder / "4")
    name = next(iter(before.specs))
    before.read(name)
    for source, target in (("2/state", "aside"), ("4/state", "2/state"), ("aside", "4/state")):
        (folder / source).rename(folder / target)
    with pytest.raises(ValueError, match=rf"checkpoint {folder}/4 is damaged \(the checksum of .* differs\); move it"):
        CheckpointTensors(folder / "4").read(name)
