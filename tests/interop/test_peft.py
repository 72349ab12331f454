"""Adapters of PEFT: added to their base model, or refused. What a run writes is tested in test_bert.py."""

import json

import jax
import numpy as np
import pytest

from research.cli.experiments import config_class
from research.interop import checkpoints
from tests.interop import reference
from tests.interop.reference import torch

pytestmark = pytest.mark.usefixtures("quick_compilation")


def adapter(folder, scale=2.0, **config):
    """A PEFT folder beside a tiny BERT, with one update of rank 2; the model with what its kernel becomes."""
    from safetensors.numpy import save_file

    theirs = reference.bert()
    reference.save(theirs, folder / "base")
    (folder / "adapter").mkdir()
    content = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "base_model_name_or_path": str(folder / "base")} | config
    (folder / "adapter/adapter_config.json").write_text(json.dumps(content))
    rng, name = np.random.default_rng(0), "bert.encoder.layer.1.attention.self.query"
    down, up = (rng.normal(size=shape).astype(np.float32) for shape in ((2, 24), (24, 2)))
    tensors = {f"base_model.model.{name}.lora_A.weight": down, f"base_model.model.{name}.lora_B.weight": up}
    save_file(tensors, folder / "adapter/adapter_model.safetensors")
    with torch.no_grad():
        theirs.get_parameter(f"{name}.weight").add_(torch.tensor(np.float32(scale) * up @ down))
    return theirs


@pytest.mark.parametrize(("config", "scale"), [({}, 2.0), ({"use_rslora": True}, 4 / 2**0.5)])
def test_an_adapter_is_added_to_its_base_model(config, scale, tmp_path):
    theirs = adapter(tmp_path, scale, **config)
    mask = (np.arange(9) < np.array([[9], [4]])).astype(np.int32)
    tokens = np.random.default_rng(1).integers(4, 30, mask.shape) * mask
    model, variables = reference.load(tmp_path / "adapter")
    with torch.no_grad():
        expected = theirs(input_ids=torch.tensor(tokens), attention_mask=torch.tensor(mask)).logits
    reference.assert_close(jax.jit(model.apply)(variables, tokens, mask), expected)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"peft_type": "ADALORA"}, "peft_type='ADALORA', which is not supported; it must be 'LORA' or 'IA3'"),
        ({"use_dora": True}, "use_dora=True, which is not supported"),
        ({"rank_pattern": {"query": 4}}, "rank_pattern={'query': 4}, which is not supported"),
        ({"lora_alpha": "4"}, "lora_alpha='4', which is not supported; it must be a number"),
        ({"r": 0}, "r=0, which is not supported"),
        ({"base_model_name_or_path": "bert-base-uncased"}, "the base model of .*there is no checkpoint 'bert-base-u"),
        ({"base_model_name_or_path": None}, "has no base_model_name_or_path"),
    ],
)
def test_what_is_not_supported_is_refused_in_one_line(config, message, tmp_path):
    adapter(tmp_path, **config)
    with pytest.raises(ValueError, match=message) as caught:
        checkpoints.open_checkpoint(str(tmp_path / "adapter"), config_class)
    assert "\n" not in str(caught.value)


def test_updates_that_fit_no_kernel_are_refused(tmp_path):
    from safetensors.numpy import load_file, save_file

    adapter(tmp_path)
    file = tmp_path / "adapter/adapter_model.safetensors"
    (a, down), (b, up) = load_file(file).items()
    for changed, message in (
        ({a: down}, "lora_A or lora_B of .*query.weight alone"),
        ({a: down[:, :8], b: up}, r"is \[24, 2\] times \[2, 8\], but the kernel is \[24, 24\]"),
        (
            {a.replace("layer.1", "layer.7"): down, b.replace("layer.1", "layer.7"): up},
            "which the base model does not have",
        ),
        ({"query.lora_A.weight": down}, "does not begin with base_model.model."),
    ):
        save_file({name: np.ascontiguousarray(values) for name, values in changed.items()}, file)
        with pytest.raises(ValueError, match=message):
            checkpoints.open_checkpoint(str(tmp_path / "adapter"), config_class)


# ---- IA3.


def scales(folder, file="adapter_model.safetensors", **changes):
    """A PEFT folder beside a tiny BERT with scales of outputs and inputs; the model with what its layers become."""
    from safetensors.numpy import save_file

    theirs = reference.bert()
    reference.save(theirs, folder / "base")
    (folder / "adapter").mkdir()
    config = {
        "peft_type": "IA3",
        "base_model_name_or_path": str(folder / "base"),
        "feedforward_modules": ["output.dense"],
    }
    (folder / "adapter/adapter_config.json").write_text(json.dumps(config))
    rng, layer, tensors = np.random.default_rng(0), "bert.encoder.layer.1", {}
    for module, shape in ((f"{layer}.attention.self.key", (24, 1)), (f"{layer}.output.dense", (1, 40))):
        scale = rng.uniform(0.5, 1.5, shape).astype(np.float32)
        tensors[f"base_model.model.{module}.ia3_l"] = scale
        with torch.no_grad():
            theirs.get_parameter(f"{module}.weight").mul_(torch.tensor(scale))
            if shape[1] == 1:
                theirs.get_parameter(f"{module}.bias").mul_(torch.tensor(scale[:, 0]))
    save_file(tensors | changes, folder / "adapter" / file)
    return theirs


def test_scales_are_merged_into_their_base_model(tmp_path):
    theirs = scales(tmp_path)
    mask = (np.arange(9) < np.array([[9], [4]])).astype(np.int32)
    tokens = np.random.default_rng(1).integers(4, 30, mask.shape) * mask
    model, variables = reference.load(tmp_path / "adapter")
    with torch.no_grad():
        expected = theirs(input_ids=torch.tensor(tokens), attention_mask=torch.tensor(mask)).logits
    reference.assert_close(jax.jit(model.apply)(variables, tokens, mask), expected)


def test_scales_that_fit_no_kernel_are_refused(tmp_path):
    name = "base_model.model.bert.encoder.layer.{}.output.dense.ia3_l"
    for number, (layer, shape, message) in enumerate(
        (
            (0, (1, 39), r"are \[1, 39\], but the kernel is \[24, 40\]"),
            (7, (1, 40), "which the base model does not have"),
        )
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        scales(folder, **{name.format(layer): np.ones(shape, np.float32)})
        with pytest.raises(ValueError, match=message):
            checkpoints.open_checkpoint(str(folder / "adapter"), config_class)
