"""Every config and variant builds its program, and no config sets a key that nothing uses."""

import io
import re
from pathlib import Path

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from experiments.image_classification import main
from research import config as config_lib
from research.parallel import mesh as mesh_lib
from research.train import feed, trainer
from research.train.program import build_program
from tests.train import toy

FILES = sorted(str(path.relative_to(Path.cwd())) for path in Path.cwd().glob("configs/image_classification/*.py"))


def variants(file):
    return config_lib.load_file(file).VARIANTS


VARIANTS = [(file, variant) for file in FILES for variant in variants(file)]
each_variant = pytest.mark.parametrize(("file", "variant"), VARIANTS, ids=lambda value: Path(value).stem)
each_file = pytest.mark.parametrize("file", FILES, ids=lambda value: Path(value).stem)


def set_keys(file, variant):
    """The dotted names of what a config file itself says."""
    return set(config_lib.flat(config_lib.load_file(file).get_config(variant)))


def changed(config, name, value):
    """`config` with one field at another value, unchecked."""
    nested = config_lib.plain(config)
    group, _, key = name.rpartition(".")
    (nested[group] if group else nested)[key] = value
    return ConfigDict(nested)


@each_variant
def test_its_program_builds_on_several_devices_without_data(file, variant):
    tensor = 1 if "resnet" in file else 4  # which a ResNet has no use for
    sizes = ["mesh.data=1", "mesh.fsdp=2", f"mesh.tensor={tensor}"]
    config = config_lib.load(file, variant, [*sizes, "data.dir=/nowhere"])
    task, data = main.build(config)
    assert data.num_classes == (10 if variant == "smoke" or "imagenet" not in file else 1000)
    mesh = mesh_lib.make_mesh(config.mesh, jax.devices()[: 2 * tensor])
    feed.check_batch(config, mesh)
    program = build_program(config, task, mesh)
    batch = task.example(config.train.batch_size)
    outputs = jax.eval_shape(program.predict_step, program.state.evaluated, batch, jax.random.key(0))
    assert outputs["probabilities"].shape == (config.train.batch_size, data.num_classes)


@each_file
def test_it_names_a_floor_and_a_reference_with_their_sources(file):
    result = config_lib.result_spec(file)
    assert result["metric"] == "test/accuracy"
    assert 0 < result["floor"] < result["reference"] < 1
    assert result["floor_source"] and result["reference_source"]
    assert config_lib.load_file(file).__doc__.count("\n") > 5


# ---- Every key that is set is used: another value gives other batches or another program, or is refused.


def pictures(data):
    """The training and evaluation arrays of eight pictures that are drawn here, so that nothing must be prepared."""
    channels = data.image_shape[-1]
    for seed in range(8):
        rng = np.random.default_rng(seed)
        pixels = rng.integers(0, 256, (40 + seed, 48, channels), np.uint8).squeeze()
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "png")
        example = {data.train_transform.image_key: buffer.getvalue(), data.train_transform.label_key: 3}
        yield data.train_transform(example, rng)["image"].tobytes()
        yield data.eval_transform(example)["image"].tobytes()


def data_fingerprint(config):
    _, data = main.build(config)
    return *pictures(data), data.name, data.mean, data.std, data.cache, data.workers, data.prefetch


def program_fingerprint(config):
    task, _ = main.build(config)
    batch, rng = task.example(4), jax.random.key(0)
    variables = jax.eval_shape(task.init, rng)
    loss = jax.make_jaxpr(lambda *args: task.loss(*args[:2], {"examples": 4.0}, args[2]))(variables, batch, rng)
    return re.sub("0x[0-9a-f]+", "", f"{jax.make_jaxpr(task.init)(rng)} {loss}")


FINGERPRINTS = {
    "data": data_fingerprint,
    "model": program_fingerprint,
    "task": program_fingerprint,
    "precision": program_fingerprint,
}


def others(value):
    """Other values of the same type; a word is replaced by one that nothing knows."""
    match value:
        case bool():
            return (not value,)
        case int():
            return (value + 1, 1)
        case float():
            return (value / 2 + 0.125,)
        case str():
            return ("nonsense",)
        case tuple():
            return (tuple(other for item in value for other in others(item)[:1]),)
    raise TypeError(f"no other value is known for {value!r}")


def is_used(config, name, fingerprint, before):
    """Whether another value of a field is seen by what its group makes, or refused in a message that shows it."""
    for other in others(config_lib.flat(config)[name]):
        try:
            if fingerprint(changed(config, name, other)) != before:
                return True
        except (KeyError, TypeError, ValueError) as error:
            if name.split(".")[-1] in str(error) or str(other) in str(error):
                return True
    return False


def unused(config, names):
    left = []
    for group, fingerprint in FINGERPRINTS.items():
        mine = sorted(name for name in names if name.startswith(f"{group}."))
        before = fingerprint(config) if mine else None
        left += [name for name in mine if not is_used(config, name, fingerprint, before)]
    return left


@each_file
def test_every_data_key_that_it_sets_is_used(file):
    """By one variant at least: where a variant switches RandAugment off, its magnitude may stand idle."""
    left = {name for variant in variants(file) for name in set_keys(file, variant) if name.startswith("data.")}
    assert len(left) > 3
    for variant in variants(file):
        left = set(unused(config_lib.load(file, variant), left))
    assert left == set()


@each_file
def test_every_model_task_and_precision_key_that_it_sets_is_used(file):
    names = {name for variant in variants(file) for name in set_keys(file, variant) if not name.startswith("data.")}
    assert len([name for name in names if name.startswith("model.")]) >= 3
    assert unused(config_lib.load(file, "smoke"), names) == []


def test_a_fingerprint_depends_on_nothing_else():
    config = config_lib.load("configs/image_classification/digits_vit.py", "smoke")
    for fingerprint in set(FINGERPRINTS.values()):
        assert fingerprint(config) == fingerprint(changed(config, "train.steps", 1))


def test_a_key_that_nothing_uses_is_reported():
    config = config_lib.load("configs/image_classification/digits_vit.py", "smoke", ["model.qkv_bias=False"])
    config = changed(config, "data.flavour", 1)  # known to nobody
    names = {"data.flavour", "data.pad", "data.scale", "model.key_bias", "model.width"}  # pad waits for crop="pad"
    assert unused(config, names) == ["data.flavour", "data.pad", "model.key_bias"]


# ---- The groups that the trainer reads field by field: train, optimizer, mesh and the seed.


class Recorded:
    """Stands for a ConfigDict and records the dotted names of the fields that are read one by one."""

    def __init__(self, config, reads, where=""):
        self._config, self._reads, self._where = config, reads, where

    def __getitem__(self, key):
        value, name = self._config[key], self._where + key
        if isinstance(value, ConfigDict):
            return Recorded(value, self._reads, f"{name}.")
        self._reads.add(name)
        return value

    __getattr__ = __getitem__

    def items(self):
        """For writing the config down, which is no use of it."""
        return self._config.to_dict().items()


def test_a_run_reads_every_other_key_and_an_unused_one_is_reported(tmp_path):
    config, reads = changed(toy.make_config(**{"train.steps": 4}), "train.flavour", 1), set()
    trainer.run("train", Recorded(config, reads), toy.make_task(), toy.Data(), tmp_path / "run")
    groups = ("seed", "train.", "optimizer.", "mesh.")
    assert {name for name in config_lib.flat(config) if name.startswith(groups)} - reads == {"train.flavour"}
    known = set(config_lib.flat(trainer.defaults(config)))
    for file, variant in VARIANTS:
        optimizer = {f"optimizer.{key}" for key in config_lib.load(file, variant).optimizer}
        assert {name for name in set_keys(file, variant) if name.startswith(groups)} <= known | optimizer
