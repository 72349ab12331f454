"""IA3: trained scales of inputs and outputs, in closed form, merged, on a mesh, and written for PEFT; BitFit."""

import functools
import json
import re
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from flax import traverse_util

from research.config import Source
from research.interop import merged, peft
from research.interop.families import vit as vit_family
from research.interop.safetensors import Safetensors, TensorSpec
from research.models.dense import Dense
from research.parallel import mesh as mesh_lib
from research.train import feed, optimizer, settings
from research.train.lora import LoraSpec, is_update
from research.train.program import _initial_variables, build_program
from tests.parallel import equivalence
from tests.train import toy

SIZES = [
    f"model.{name}={value}" for name, value in {"width": 384, "depth": 6, "num_heads": 12, "mlp_dim": 1536}.items()
]
IA3 = {"scale_outputs": ("attention/(key|value)/kernel",), "scale_inputs": ("mlp/down/kernel",)}


@functools.cache
def program(**settings):
    config = toy.make_config(
        **{
            "lora": {**IA3, "train": ("^head/",), **settings},
            "optimizer": {"name": "sgd", "learning_rate": 0.1, "schedule": "constant"},
            "train.microbatches": 1,
        }
    )
    task = equivalence.make_task("vit", "float32")
    return build_program(config, task, mesh_lib.make_mesh(config.mesh.sizes, jax.devices()[:1])), task, config


def flat(tree):
    return traverse_util.flatten_dict(tree, sep="/")


class Tensors:
    """Parameters as a run's checkpoint has them."""

    trained_on = ""

    def __init__(self, params):
        self._found = flat(params)
        self.specs = {path: TensorSpec(leaf.shape, leaf.dtype) for path, leaf in self._found.items()}

    def read(self, name):
        return self._found[name]


@functools.cache
def trained():
    """The parameters before and after three steps; the scales are then changed at random, so that they matter."""
    adapted, task, _ = program()
    state = adapted.init()
    before = jax.device_get(state.params)
    batch = feed.to_mesh(equivalence.make_batch(task), adapted.batch_sharding)
    for _ in range(3):
        state, _ = adapted.train_step(state, batch)
    after = jax.device_get(state.params)
    rng = np.random.default_rng(0)
    scaled = {path: leaf * rng.uniform(0.5, 1.5, leaf.shape).astype(leaf.dtype) for path, leaf in flat(after).items()
              if is_update(path)}  # fmt: skip
    return flat(before), flat(after), traverse_util.unflatten_dict(flat(after) | scaled, sep="/")


def test_one_layer_in_closed_form():
    layer, x = Dense((2, 3), axis=(-2, -1)), jax.random.normal(jax.random.key(1), (5, 4, 6))
    params = layer.init(jax.random.key(0), x)["params"] | {"bias": np.arange(6.0, dtype=np.float32).reshape(2, 3)}
    inputs, outputs = np.linspace(0.5, 2, 24).reshape(4, 6), np.linspace(-1, 1, 6).reshape(2, 3)
    y = layer.apply({"params": {**params, "ia3_in": inputs, "ia3_out": outputs}}, x)
    expected = (np.einsum("bij,ijkl->bkl", x * inputs, params["kernel"]) + params["bias"]) * outputs
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


def test_only_scales_and_the_head_are_trained():
    before, after, _ = trained()
    width, mlp, depth = 16, 32, 2
    adapted, _, _ = program()
    assert adapted.num_trained == depth * (2 * width + mlp) + 10 * (width + 1)
    for path, leaf in after.items():
        if is_update(path):
            assert (before[path] == 1).all() and (leaf != 1).any(), path
        else:
            assert np.array_equal(leaf, before[path]) != path.startswith("head/"), path


def test_merged_equals_unmerged():
    _, task, _ = program()
    params = trained()[2]
    found = merged.MergedTensors(Tensors(params), task.logical_axes)
    assert not [path for path in found.specs if is_update(path)]
    plain = traverse_util.unflatten_dict({path: found.read(path) for path in found.specs}, sep="/")
    batch = equivalence.make_batch(task)
    logits = jax.jit(lambda params: task.logits({"params": params}, batch))
    ours, expected = logits(plain), logits(params)
    without = {path: leaf for path, leaf in flat(params).items() if not is_update(path)}
    assert np.abs(expected - logits(traverse_util.unflatten_dict(without, sep="/"))).max() > 1e-3
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)


def test_scales_lie_where_the_axes_of_their_kernels_do():
    adapted, _ = equivalence.make_program("vit", (1, 2, 4, 1), "float32", lora=IA3)
    found = {path: leaf.sharding.spec for path, leaf in flat(adapted.state.params).items()}
    assert found["blocks/attention/key/ia3_out"] == jax.P(None, "tensor", None)
    assert found["blocks/mlp/down/ia3_in"] == jax.P(None, "tensor")


def test_what_peft_gets_is_merged_to_the_same_weights(tmp_path):
    """From a run without files: written, and merged by PEFT's rule into the tensors of transformers."""
    _, task, config = program()
    whole = Tensors(trained()[2])
    tensors = merged.MergedTensors(whole, task.logical_axes)
    source = SimpleNamespace(config=config, model=task.model, tensors=tensors)
    assert "IA3" in peft.write(source, vit_family.FAMILY, tmp_path / "adapter")[0]
    content = json.loads((tmp_path / "adapter/adapter_config.json").read_text())
    assert content["peft_type"] == "IA3" and len(content["target_modules"]) == 6
    assert content["feedforward_modules"] == [f"vit.encoder.layer.{layer}.output.dense" for layer in (0, 1)]
    assert content["modules_to_save"] == ["classifier"]
    rows = {row.ours: row for row in vit_family.TABLE}
    theirs = {}
    for path in tensors.specs:
        theirs |= {name: make() for name, make in rows[path].write(lambda path=path: whole.read(path),
                                                                  whole.specs[path].shape)}  # fmt: skip
    base = SimpleNamespace(
        specs={name: TensorSpec(value.shape, value.dtype) for name, value in theirs.items()}, read=theirs.get
    )
    read = peft.AdaptedTensors(base, tmp_path / "adapter", vit_family.FAMILY)
    for path in tensors.specs:
        for name, make in rows[path].write(lambda path=path: tensors.read(path), tensors.specs[path].shape):
            np.testing.assert_allclose(read.read(name), make(), rtol=1e-6)
    names = Safetensors(tmp_path / "adapter/adapter_model.safetensors").specs
    assert names["base_model.model.vit.encoder.layer.1.output.dense.ia3_l"].shape == (1, 32)


@pytest.mark.parametrize(
    ("words", "count", "names"),
    [
        (["lora.scale_outputs=('attention/(key|value)/kernel',)", "lora.scale_inputs=('mlp/down/kernel',)"], 14_594,
         r"ia3_(in|out)"),
        (["optimizer.freeze=('blocks/.*(kernel|scale)$', '^(embedding|learned|types)$', '^norm/scale$')"], 26_498,
         "bias"),
    ],
)  # fmt: skip
def test_few_parameters_of_minilm_are_trained(words, count, names):
    """The settings and the figures of docs/adapting.md, for IA3 and for biases alone (BitFit)."""
    config = settings.load(Source.parse("configs/sentiment/sst2_minilm.py:smoke", [*words, *SIZES]))
    task = config.make_task(30_522)
    shapes = jax.eval_shape(functools.partial(_initial_variables, task, config.lora, 0))["params"]
    found = flat(optimizer.trained(config.optimizer, config.lora, shapes))
    assert sum(leaf.size for leaf in found.values()) == count
    assert all(re.fullmatch(rf".*/{names}|head/kernel|head/bias", path) for path in found)


def test_patterns_that_match_no_kernel_are_refused():
    with pytest.raises(ValueError, match=r"config.lora.scale_inputs has 'attn', which matches no kernel such as "):
        program(scale_inputs=("attn",))
    assert not LoraSpec().adapts and LoraSpec(**IA3).adapts
