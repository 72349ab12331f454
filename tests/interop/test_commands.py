"""`python -m research.interop`: round trips, run directories that the trainer takes, and what is refused."""

import json
import shutil

import jax
import numpy as np
import pytest

from research import config as config_lib
from research.checkpoint.store import Checkpoints
from research.cli.experiments import config_class
from research.interop import __main__ as interop
from research.interop import exports, imports, loading, runs
from research.train import optimizer, trainer
from tests.interop import reference
from tests.interop.reference import torch

pytestmark = pytest.mark.usefixtures("quick_compilation")
MODELS = {
    "vit": reference.vit,
    "resnet": lambda: reference.resnet(depths=(1, 2), hidden_sizes=(32, 64)),
    "resnet_basic": lambda: reference.resnet("basic", depths=(2, 1), hidden_sizes=(8, 16)),
    "convnext": reference.convnext,
    "t5": reference.t5,
    "t5_1_0": lambda: reference.t5(untied=False),
    "mt5": lambda: reference.t5(family="MT5"),
    "bert": reference.bert,
    "roberta": lambda: reference.bert("Roberta", type_vocab_size=1),
    "distilbert": lambda: reference.bert("DistilBert"),
    "bert without a head": lambda: reference.bert(head=False, pooler=True),
    "clip tower": lambda: reference.clip("VisionModel"),
    "clip tower with projection": lambda: reference.clip("VisionModelWithProjection"),
    "siglip tower": lambda: reference.siglip("VisionModel"),
    "dinov2": reference.dinov2,
    "dinov2 with registers": lambda: reference.dinov2(registers=3),
}


def variables(workdir):
    """What the run in `workdir` evaluates, by path."""
    tensors = runs.open_run(workdir, config_class).tensors
    return {path: tensors.read(path) for path in tensors.specs}


@pytest.mark.parametrize("name", MODELS)
def test_import_export_import_is_bitwise_and_transformers_reads_it(name, tmp_path):
    theirs = MODELS[name]()
    reference.save(theirs, tmp_path / "theirs")
    imports.run(str(tmp_path / "theirs"), str(tmp_path / "run"), config_class)
    exports.run(str(tmp_path / "run"), str(tmp_path / "out"), config_class, most_bytes=20_000)
    assert len(list((tmp_path / "out").glob("model-*.safetensors"))) > 1
    imports.run(str(tmp_path / "out"), str(tmp_path / "again"), config_class)
    reference.assert_same(variables(tmp_path / "run"), variables(tmp_path / "again"))
    assert runs.open_run(tmp_path / "run", config_class).model == runs.open_run(tmp_path / "again", config_class).model
    read, info = type(theirs).from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not info["unexpected_keys"] and not info["mismatched_keys"]
    assert all("num_batches_tracked" in key for key in info["missing_keys"])
    before, after = theirs.state_dict(), read.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before if "num_batches_tracked" not in key)


@pytest.mark.long
@pytest.mark.parametrize("name", ["resnet_basic", "t5"])
def test_the_trainer_restores_what_was_imported(name, tmp_path):
    """Checksums included, and the state is that of a run that begins, but for the weights."""
    reference.save(MODELS[name](), tmp_path / "theirs")
    imports.run(str(tmp_path / "theirs"), str(tmp_path / "run"), config_class, ["train.ema=0.9"])
    content = json.loads((tmp_path / "run/config.json").read_text())
    config = config_lib.load(content["source"]["file"])
    assert config == config_lib.of_run(type(config), content)
    task = runs.open_run(tmp_path / "run", config_class).task
    program = trainer.build(config, task, jax.devices()[:2])  # another mesh than that of the import
    manager = Checkpoints(str(tmp_path / "run/checkpoints"), 1, 1, "max")
    step, state, _ = manager.restore(program)
    manager.close()
    fresh = program.init()
    assert step == 0 and jax.tree.structure(state) == jax.tree.structure(fresh)
    reference.assert_same(jax.device_get(state.opt_state), jax.device_get(fresh.opt_state))
    _, expected = reference.load(tmp_path / "theirs")
    reference.assert_same(jax.device_get(dict(state.variables)), expected)
    reference.assert_same(jax.device_get(dict(state.ema)), expected)


@pytest.mark.parametrize("name", optimizer.OPTIMIZERS)
def test_every_optimizer_begins_with_zeros(name):
    """Which is what an import writes without asking."""
    transform = optimizer.build(optimizer.OPTIMIZERS[name](clip_norm=1.0), 10)
    params = {"kernel": np.ones((130, 140), np.float32), "bias": np.ones(3, np.float32)}
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(transform.init(params)))


def test_a_model_without_a_head_gets_a_fresh_one(tmp_path):
    reference.save(reference.vit(head=False), tmp_path / "theirs")
    lines = imports.run(str(tmp_path / "theirs"), str(tmp_path / "run"), config_class)
    assert any(line.startswith("initialised head/kernel: classifier.weight is not in the checkpoint") for line in lines)
    assert any(line == "left over: pooler.dense.bias, pooler.dense.weight" for line in lines)
    assert not np.any(variables(tmp_path / "run")["head/kernel"])  # as a ViT begins
    report = json.loads((tmp_path / "run/import.json").read_text())
    assert report["kind"] == "vit" and len(report["loaded"]) == 22 and set(report["fresh"]) == {
        "head/kernel", "head/bias",
    }  # fmt: skip


def test_check_says_how_much_logits_differ(tmp_path, capsys):
    reference.save(reference.convnext(image_size=32), tmp_path)
    interop.main(["check", str(tmp_path)])
    assert "at most 0.0001 is allowed" in capsys.readouterr().out


# ---- What is refused.


def refusal(*words):
    with pytest.raises(ValueError) as caught:
        interop.main([*map(str, words)])
    assert "\n" not in str(caught.value)
    return str(caught.value)


def rewritten(folder, change, config=None):
    """A saved ViT whose tensors, and config, are changed."""
    from safetensors.numpy import load_file, save_file

    reference.save(reference.vit(), folder)
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
    if config:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | config))


KEY = "vit.encoder.layer.1.output.dense.weight"


@pytest.mark.parametrize(
    ("change", "config", "message"),
    [
        (lambda t: t.pop(KEY), None, f"blocks/mlp/down/kernel needs {KEY}, which is missing in"),
        (lambda t: t.update({KEY: t[KEY][:, 1:]}), None, f"{KEY} is [24, 39] in "),
        (lambda t: t.update({KEY: t[KEY].astype(np.int32)}), None, f"{KEY} is int32 in "),
        (lambda t: t.update({KEY: t[KEY].astype(np.float64)}), None, f"{KEY} is float64 in "),
        (lambda t: t.update({"vit.other": t[KEY]}), None, "first vit.other"),
        (lambda t: t.pop("classifier.bias"), None, "head/bias needs classifier.bias, which is missing in"),
        (lambda t: None, {"num_hidden_layers": 2}, "first vit.encoder.layer.2."),
        (lambda t: None, {"num_attention_heads": 5}, "config.model.width=24 must be a multiple of num_heads=5"),
        (lambda t: None, {"hidden_act": "silu"}, "hidden_act='silu', which is not supported"),
        (
            lambda t: None,
            {"model_type": "gpt2"},
            "model_type='gpt2', which is not supported; choose from vit, resnet, convnext, t5, mt5",
        ),
        (lambda t: None, {"model_type": "t5"}, "config.json of a 't5' model lacks 'd_model'"),
    ],
)
def test_a_checkpoint_that_does_not_fit_leaves_nothing(change, config, message, tmp_path):
    rewritten(tmp_path / "theirs", change, config)
    assert message in refusal("import", tmp_path / "theirs", f"--workdir={tmp_path / 'runs/one'}")
    assert list(tmp_path.glob("runs/*")) + list(tmp_path.glob("runs/.*")) == []


def test_skip_leaves_a_parameter_fresh_and_a_tensor_over(tmp_path):
    rewritten(tmp_path / "theirs", lambda t: (t.pop("classifier.bias"), t.update({"other": t[KEY]})))
    interop.main(
        ["import", str(tmp_path / "theirs"), f"--workdir={tmp_path / 'run'}", "--skip=head", "--skip=other",
         "--skip=classifier"]
    )  # fmt: skip
    report = json.loads((tmp_path / "run/import.json").read_text())
    assert report["left_over"] == ["classifier.weight", "other"] and "head/bias" in report["fresh"]


def break_file(folder, name):
    file = folder / "model.safetensors"
    if name == "truncated":
        file.write_bytes(file.read_bytes()[:-100])
        return "is truncated: "
    if name == "header":
        file.write_bytes(file.read_bytes()[:300])
        return "is truncated: its header of"
    if name == "garbage":
        file.write_bytes(b"\x80\x02}q\x00." * 100)
        return "is not a safetensors file"
    if name == "pickle":
        file.rename(folder / "pytorch_model.bin")
        return "pytorch_model.bin could run code when read; only .safetensors, .npz, and .pth that"
    if name == "no config":
        (folder / "config.json").unlink()
        return "config.json is missing; put the config.json beside the .safetensors"
    if name == "config":
        (folder / "config.json").write_text("{")
        return "config.json is not JSON"
    raise AssertionError(name)


@pytest.mark.parametrize("name", ["truncated", "header", "garbage", "pickle", "no config", "config"])
def test_a_damaged_file_is_refused(name, tmp_path):
    reference.save(reference.vit(), tmp_path / "theirs")
    message = break_file(tmp_path / "theirs", name)
    assert message in refusal("import", tmp_path / "theirs", f"--workdir={tmp_path / 'run'}")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["absent", "elsewhere", "moved"])
def test_an_index_that_is_wrong_is_refused(name, tmp_path):
    reference.save(reference.vit(), tmp_path / "theirs", max_shard_size="20KB")
    file = tmp_path / "theirs/model.safetensors.index.json"
    index = json.loads(file.read_text())
    shards = sorted(set(index["weight_map"].values()))
    assert len(shards) > 2
    if name == "absent":
        (tmp_path / "theirs" / shards[1]).unlink()
        message = f"lists {shards[1]} for "
    elif name == "elsewhere":
        index["weight_map"][KEY] = "../other.safetensors"
        message = f"lists '../other.safetensors' for {KEY}"
    else:
        index["weight_map"][KEY] = next(shard for shard in shards if shard != index["weight_map"][KEY])
        message = f"lists {KEY} in "
    file.write_text(json.dumps(index))
    assert message in refusal("import", tmp_path / "theirs", f"--workdir={tmp_path / 'run'}")


def test_other_mistakes_are_one_line(tmp_path):
    reference.save(reference.vit(), tmp_path / "theirs")
    theirs, run, out = tmp_path / "theirs", tmp_path / "run", tmp_path / "out"
    assert "there is no checkpoint" in refusal("import", tmp_path / "nowhere", f"--workdir={run}")
    message = refusal("import", theirs, f"--workdir={run}", "--config.model.gelu=tanh")
    assert "--config.model.gelu='tanh', but the checkpoint has 'exact'" in message
    assert "config.model.depths is unknown; did you mean depth" in refusal(
        "import", theirs, f"--workdir={run}", "--config.model.depths=3"
    )
    interop.main(["import", str(theirs), f"--workdir={run}"])
    assert "exists and is not empty" in refusal("import", theirs, f"--workdir={run}")
    assert "is a run directory already" in refusal("import", run, f"--workdir={tmp_path / 'other'}")
    assert "does not support a ViT" in refusal("export", run, out, "--family=resnet")
    assert "big_vision needs a .npz file" in refusal("export", run, out, "--family=big_vision")
    assert "config.model.gelu='exact' cannot be exported" in refusal("export", run, tmp_path / "out.npz")
    assert "is not a run directory" in refusal("export", theirs, out)
    assert not out.exists() and not (tmp_path / "out.npz").exists()
    shutil.copytree(theirs, out)
    assert "exists; name a new folder" in refusal("export", run, out)


def test_a_file_of_half_precision_is_widened(tmp_path):
    theirs = reference.vit().to(torch.bfloat16)
    reference.save(theirs, tmp_path)
    _, params = reference.load(tmp_path)
    leaves = loading.leaves_of(params)
    assert {str(leaf.dtype) for leaf in leaves.values()} == {"float32"}
    expected = theirs.classifier.weight.detach().to(torch.float32).numpy().T
    np.testing.assert_array_equal(leaves["head/kernel"], expected)
