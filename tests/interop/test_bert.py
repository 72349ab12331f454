"""BERT, RoBERTa and DistilBERT, against transformers itself."""

import functools
import json

import jax
import numpy as np
import pytest

from experiments.sentiment import main as sentiment
from research.cli import experiment
from research.cli.experiments import config_class
from research.data import prepare
from research.data.text.tokenizer import open_vocabulary
from research.interop import __main__ as interop
from research.interop import checkpoints, exports, imports, loading, runs
from tests.data.text.test_tokenizer import TEXTS, made
from tests.interop import reference
from tests.interop.reference import torch

pytestmark = pytest.mark.usefixtures("quick_compilation")
FAMILIES = ("Bert", "Roberta", "DistilBert")
POOLINGS = {"Bert": "cls_tanh", "Roberta": "cls_tanh", "DistilBert": "cls_relu"}


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
    theirs = reference.bert(head=False, pooler=True)
    (tokens, mask), types = batch(), (np.arange(9) > 2) * np.ones((3, 9), np.int64)
    model, variables = reference.load(reference.save(theirs, tmp_path))
    assert (model.spec.pool, model.num_classes) == ("cls_tanh", 0)
    ours = jax.jit(model.apply)(variables, tokens, mask, None, types)
    expected = theirs_of(theirs, tokens, mask, token_type_ids=torch.tensor(types)).pooler_output
    reference.assert_close(ours, expected)


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
        ("Bert", {"hidden_act": "relu"}, "hidden_act='relu', which is not supported; it must be 'gelu'"),
        ("Bert", {"is_decoder": True}, "is_decoder=True, which is not supported"),
        ("Bert", {"problem_type": "regression"}, "problem_type='regression', which is not supported"),
        ("Roberta", {"pad_token_id": 0}, "pad_token_id=0, which is not supported; it must be 1"),
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
    assert any("no tokenizer.json is beside the weights" in line for line in lines)
    assert runs.open_run(tmp_path / "run", config_class).config.task.classes == ("bad", "poor", "fair", "good")


def test_a_mean_with_a_head_is_no_classifier_of_transformers(tmp_path):
    reference.save(reference.bert(), tmp_path / "theirs")
    imports.run(str(tmp_path / "theirs"), str(tmp_path / "run"), config_class)
    config = tmp_path / "run/config.json"
    config.write_text(config.read_text().replace('"pool": "cls_tanh"', '"pool": "mean"'))
    with pytest.raises(
        ValueError, match="pool='mean' cannot be exported: a classifier of Bert in transformers supports only"
    ):
        exports.run(str(tmp_path / "run"), str(tmp_path / "out"), config_class)


# ---- Weights to begin with.


def begun(folder, **settings):
    """How a model of other settings is loaded to be trained on, and its parameters."""
    checkpoint = checkpoints.open_checkpoint(str(folder), config_class)
    model = checkpoint.make_model(**settings)
    shapes = loading.abstract(model)
    plan = loading.plan(checkpoint, model, loading.leaves_of(shapes))
    return plan, plan.variables(shapes)["params"]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_without_a_head_gets_a_fresh_one_and_a_pooler(family, tmp_path):
    reference.save(reference.bert(family, head=False), tmp_path)
    plan, _ = begun(tmp_path, num_classes=2, pool=POOLINGS[family], dropout=0.1)
    assert set(plan.fresh) == {"head/kernel", "head/bias", "pooler/kernel", "pooler/bias"}
    assert set(begun(tmp_path, num_classes=2)[0].fresh) == {"head/kernel", "head/bias"}


def test_another_number_of_classes_gets_a_fresh_head(tmp_path):
    reference.save(reference.bert(), tmp_path)
    plan, _ = begun(tmp_path, num_classes=2)
    assert set(plan.fresh) == {"head/kernel", "head/bias"} and "of other classes" in plan.fresh["head/bias"]


@pytest.mark.parametrize(("family", "before"), [("Bert", 0), ("Roberta", 2)])
def test_the_first_positions_are_taken_where_texts_are_shorter(family, before, tmp_path):
    theirs = reference.bert(family)
    reference.save(theirs, tmp_path)
    plan, params = begun(tmp_path, max_length=5)
    table = theirs.base_model.embeddings.position_embeddings.weight.detach().numpy()
    np.testing.assert_array_equal(params["learned"], table[before : before + 5])
    assert plan.resized == {"learned": (20 - before, 24)}
    with pytest.raises(ValueError, match=r"position_embeddings\.weight is \[20, 24\] in .* learned \[21, 24\] needs"):
        begun(tmp_path, max_length=21)


def test_embeddings_of_another_number_of_tokens_are_refused_in_one_line(tmp_path):
    reference.save(reference.bert(), tmp_path)
    with pytest.raises(ValueError) as caught:
        begun(tmp_path, vocab_size=25)
    said = str(caught.value)
    assert "word_embeddings.weight is [30, 24] in" in said and "embedding [25, 24] needs [25, 24]" in said
    assert "\n" not in said


@pytest.mark.long
def test_sentiment_from_a_random_bert_with_its_tokenizer(tmp_path, monkeypatch, capsys):
    """Whole commands; the tokenizer of another model, or of another size, is refused before a step."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "data"))
    prepare.prepare("spelled_numbers")
    for name, texts in {"theirs": TEXTS, "others": [*TEXTS, "Quite another zebra."]}.items():
        (tmp_path / name).mkdir()
        made("wordpiece", texts).save(str(tmp_path / name / "tokenizer.json"))
    pieces = open_vocabulary(str(tmp_path / "theirs"), 400).pieces
    reference.save(reference.bert(head=False, vocab_size=pieces, max_position_embeddings=64), tmp_path / "theirs")
    sizes = {"width": 24, "depth": 3, "num_heads": 3, "mlp_dim": 40}
    words = [
        "--config=configs/sentiment/sst2_minilm.py:smoke", f"--config.train.init_from={tmp_path}/theirs",
        *(f"--config.model.{name}={value}" for name, value in sizes.items()), "--config.train.steps=6",
    ]  # fmt: skip
    run = lambda name, size, workdir: experiment.run(
        sentiment.main,
        [*words, f"--config.data.vocabulary={tmp_path}/{name}", f"--config.data.vocab_size={size}",
         f"--workdir={tmp_path}/{workdir}"],
    )  # fmt: skip
    for name, size, message in (
        ("others", 300, "was trained with the vocabulary"),
        ("theirs", pieces + 1, f"word_embeddings.weight is [{pieces}, 24]"),
        ("theirs", pieces - 1, f"config.data.vocab_size={pieces - 1} is less than the {pieces} tokens"),
    ):
        with pytest.raises(SystemExit):
            run(name, size, "refused")
        assert message in capsys.readouterr().err.splitlines()[-1]
    words += [
        "--config.model.pool=cls_tanh",
        "--config.lora.rank=2",
        "--config.lora.kernels=('attention/(query|out)/kernel', 'mlp/up')",
    ]
    run("theirs", pieces, "run")
    report = json.loads((tmp_path / "run/init_from.json").read_text())
    adapted = [f"encoder/blocks/{name}" for name in ("attention/query", "attention/out", "mlp/up")]
    updates = {f"{name}/{part}" for name in adapted for part in ("lora_a", "lora_b")}
    own = {f"{name}/{part}" for name in ("head", "pooler") for part in ("kernel", "bias")}
    assert set(report["fresh"]) == own | updates and report["kind"] == "bert"
    assert (tmp_path / "run/result.json").exists()
    check_exported(tmp_path)


def check_exported(tmp_path):
    """The updates of a run are in its exported weights, and beside one another as PEFT has them."""
    from safetensors.numpy import load_file

    for kind in ("weights", "peft"):
        interop.main(["export", str(tmp_path / "run"), str(tmp_path / kind), f"--format={kind}"])
    before = reference.transformers.BertModel.from_pretrained(tmp_path / "theirs").state_dict()
    after = reference.transformers.BertForSequenceClassification.from_pretrained(tmp_path / "weights").state_dict()
    updates = load_file(tmp_path / "peft/adapter_model.safetensors")
    config = json.loads((tmp_path / "peft/adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["modules_to_save"]) == (2, 2, ["bert.pooler.dense", "classifier"])
    assert len(config["target_modules"]) == 3 * 3
    for name, values in before.items():
        if name.startswith("pooler"):
            continue
        module = f"bert.{name.removesuffix('.weight')}"
        expected = values.numpy()
        if name.endswith(".weight") and module in config["target_modules"]:
            down, up = (updates.pop(f"base_model.model.{module}.lora_{part}.weight") for part in "AB")
            assert down.shape[0] == up.shape[1] == 2 and np.abs(up).max() > 0
            expected = expected + up @ down
        np.testing.assert_allclose(after[f"bert.{name}"].numpy(), expected, rtol=1e-6, atol=1e-7)
    own = {f"{module}.{part}" for module in config["modules_to_save"] for part in ("weight", "bias")}
    assert set(updates) == {f"base_model.model.{name}" for name in own}
    assert all((updates[f"base_model.model.{name}"] == after[name].numpy()).all() for name in own)
    # Read back, they are added to the base model, whose folder the run began with.
    read = checkpoints.open_checkpoint(str(tmp_path / "peft"), config_class)
    assert (read.kind, read.fields["num_classes"]) == ("bert", 2) and set(after) <= {*read.tensors.specs}
    for name, values in after.items():
        np.testing.assert_allclose(read.tensors.read(name), values.numpy(), rtol=1e-6, atol=1e-7)


def test_a_truncated_file_is_refused_in_one_line(tmp_path):
    reference.save(reference.bert(), tmp_path)
    path = tmp_path / "model.safetensors"
    whole = path.read_bytes()
    for length in (4, 100, len(whole) - 8):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"truncated|not a safetensors file|has not") as caught:
            checkpoints.open_checkpoint(str(tmp_path), config_class)
        assert "\n" not in str(caught.value)


# ---- The head of answers.


def spans_of(family):
    return reference.bert(family, head_of="QuestionAnswering", num_labels=2)


def types_of(model, mask):
    """Those of the tokens from the third on, where the model has more than one type."""
    types = (np.arange(mask.shape[1]) > 2) * np.ones_like(mask)
    return types, {"token_type_ids": torch.tensor(types)} if model.spec.token_types > 1 else {}


def assert_same_spans(ours, theirs, mask):
    found = torch.stack([theirs.start_logits, theirs.end_logits], dim=-1).numpy()
    assert ours.shape == (*mask.shape, 2)
    reference.assert_close(np.asarray(ours)[mask > 0], found[mask > 0])


@pytest.mark.parametrize("family", FAMILIES)
def test_begin_and_end_of_answers_go_in_and_out(family, tmp_path):
    theirs, (tokens, mask) = spans_of(family), batch()
    reference.save(theirs, tmp_path / "theirs")
    model, variables = reference.load(tmp_path / "theirs")
    assert (model.of_tokens, model.num_classes) == (True, 2)
    types, theirs_too = types_of(model, mask)
    known = {"types": types} if theirs_too else {}
    ours = jax.jit(model.apply)(variables, tokens, mask, **known)
    assert_same_spans(ours, theirs_of(theirs, tokens, mask, **theirs_too), mask)
    imports.run(str(tmp_path / "theirs"), str(tmp_path / "run"), config_class)
    run = runs.open_run(tmp_path / "run", config_class)
    assert type(run.config).tag == "question_answering" and run.config.task.doc_stride == run.model.max_length // 4
    exports.run(str(tmp_path / "run"), str(tmp_path / "out"), config_class)
    kind = getattr(reference.transformers, f"{family}ForQuestionAnswering")
    again, said = kind.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(said.values())
    for name, tensor in theirs.state_dict().items():
        np.testing.assert_array_equal(again.state_dict()[name].numpy(), tensor.numpy())


def test_check_compares_begin_and_end(tmp_path, capsys):
    reference.save(spans_of("DistilBert"), tmp_path)
    interop.main(["check", str(tmp_path)])
    assert "logits [2, 20, 2] differ by" in capsys.readouterr().out


def test_a_head_of_another_kind_is_not_taken(tmp_path):
    reference.save(spans_of("Bert"), tmp_path / "spans")
    reference.save(reference.bert(num_labels=2), tmp_path / "classes")
    answers = {"num_classes": 2, "of_tokens": True}
    fresh = lambda folder, **settings: set(begun(tmp_path / folder, **settings)[0].fresh)
    assert fresh("classes", **answers) == {"token_head/kernel", "token_head/bias"} and not fresh("spans", **answers)
    assert fresh("spans", num_classes=2, of_tokens=False) == {"head/kernel", "head/bias"}
