"""`hf:ORG/NAME`: weights and tokenizers by their name on a hub, where there is a network, and one line where not."""

import builtins

import huggingface_hub
import numpy as np
import pytest

from research import files
from research.cli import experiments
from research.data.text import tokenizer
from research.interop import checkpoints, peft
from research.train import trainer
from tests.interop.test_init_from import config_of, task_of
from tests.train import toy

COMMIT = "0123456789abcdef"


@pytest.fixture(autouse=True)
def forgotten():
    """What was fetched by an earlier test is fetched again."""
    files._fetched.cache_clear()
    yield
    files._fetched.cache_clear()


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub that fetches nothing and says where it would have put it, and what it was asked for."""
    folder, asked = tmp_path / "snapshots" / COMMIT, []
    folder.mkdir(parents=True)

    def fetch(name, revision=None, allow_patterns=None):
        asked.append((name, revision, allow_patterns))
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    return folder, asked


def test_training_begins_with_the_weights_of_a_name(hub):
    reference = pytest.importorskip("tests.interop.reference")
    folder, asked = hub
    theirs = reference.vit(image_size=4, patch_size=2, num_channels=1, num_labels=4)
    reference.save(theirs, folder)
    config = config_of("hf:acme/tiny@v1")
    task = task_of(width=24, depth=3, mlp_dim=40, num_heads=3, gelu="exact", layer_norm_epsilon=1e-12)
    weights = experiments.load_weights(config.train, task, trainer.build(config, task), toy.Data())
    report = weights.report()
    assert (report["path"], report["revision"], report["fresh"]) == ("hf:acme/tiny@v1", COMMIT, {})
    kernel = weights.plan.read("head/kernel", (slice(None), slice(None)), np.dtype("float32"))
    np.testing.assert_array_equal(kernel, theirs.classifier.weight.detach().numpy().T)
    ((name, revision, patterns),) = asked  # once, for whatever else is read of it
    assert (name, revision) == ("acme/tiny", "v1")
    assert not any(pattern.endswith((".bin", ".pth", "*")) for pattern in patterns)


def test_the_vocabulary_of_a_name_is_in_its_folder(hub):
    folder, asked = hub
    (folder / tokenizer.TOKENIZER).write_text("{}")
    assert tokenizer.located("hf:acme/tiny") == folder / tokenizer.TOKENIZER
    assert asked[0][:2] == ("acme/tiny", None)


def test_adapters_name_their_base_model_as_peft_does():
    named = ("hf:acme/tiny@v1", "hf:acme/tiny", "models/tiny@home")
    assert [peft._base_name(each) for each in named] == ["acme/tiny", "acme/tiny", "models/tiny@home"]


def refusal(name):
    with pytest.raises(ValueError) as caught:
        checkpoints.open_checkpoint(name, experiments.config_class)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_without_a_network_one_line_says_what_to_do(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    message = refusal("hf:acme/no-such-model-here")
    assert message.startswith("'hf:acme/no-such-model-here' cannot be downloaded (LocalEntryNotFoundError: ")
    assert message.endswith("); check name and network, or download its folder and give its path")


def test_without_the_package_one_line_says_what_to_install(monkeypatch):
    whole = builtins.__import__

    def without(name, *arguments, **options):
        if name == "huggingface_hub":
            raise ImportError(name)
        return whole(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    assert refusal("hf:acme/tiny") == (
        "'hf:acme/tiny' needs the package huggingface_hub; install Tessera with the extra [hub], or download its "
        "folder and give its path"
    )


@pytest.mark.parametrize("name", ["hf:", "hf:a/b/c", "hf:../../etc", "hf:a b/c", "hf:a/b@", "hf:https://a/b"])
def test_a_name_that_is_none_is_refused_before_anything_is_asked_for(name, hub):
    assert "is not a model name; write hf:ORG/NAME or hf:ORG/NAME@REVISION, or download" in refusal(name)
    assert hub[1] == []
