"""CLIP, SigLIP and DINOv2, against transformers itself; zero-shot classification."""

import json

import jax
import numpy as np
import pytest
from PIL import Image

from experiments.image_classification import main as image_classification
from research.cli.experiments import config_class
from research.data import recorded
from research.interop import __main__ as interop
from research.interop import checkpoints, exports, imports, loading, preprocessing, runs, zero_shot
from research.interop.families import text_towers
from research.models.vit import ViT
from tests.data.text.test_tokenizer import made
from tests.interop import reference
from tests.interop.reference import torch
from tests.interop.test_commands import refusal, variables

pytestmark = pytest.mark.usefixtures("quick_compilation")
MODELS = {"clip": reference.clip, "siglip": reference.siglip}
CLASSES = ("cat", "dog", "bird")


def classifier(path, **settings):
    """Our image tower with fixed weights in a head that passes features on, so that logits are features."""
    checkpoint = checkpoints.open_checkpoint(str(path), config_class)
    model = checkpoint.make_model(num_classes=20 if settings.get("projection") else 24, **settings)
    shapes = loading.abstract(model)
    plan = loading.plan(checkpoint, model, loading.leaves_of(shapes))
    found = plan.variables(shapes)
    assert set(plan.fresh) == {"head/kernel", "head/bias"}
    found["params"]["head"]["kernel"] = np.eye(*found["params"]["head"]["kernel"].shape, dtype=np.float32)
    return model, found


def pooled(theirs, images):
    with torch.no_grad():
        return theirs(reference.channels_first(images)).pooler_output


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (reference.clip, {}),
        (reference.clip, {"hidden_act": "gelu", "layer_norm_eps": 1e-6, "num_hidden_layers": 1}),
        (reference.siglip, {}),
        (reference.siglip, {"hidden_act": "gelu", "num_attention_heads": 2}),
    ],
)
@pytest.mark.parametrize("kind", ["Model", "VisionModel"])
def test_features_of_images(make, options, kind, tmp_path):
    theirs, images = make(kind, **options), reference.images(24)
    model, found = classifier(reference.save(theirs, tmp_path))
    expected = pooled(theirs.vision_model if kind == "Model" else theirs, images)
    reference.assert_close(jax.jit(model.apply)(found, images), expected)


def test_features_of_images_with_projection(tmp_path):
    theirs, images = reference.clip("VisionModelWithProjection"), reference.images(24)
    model, found = classifier(reference.save(theirs, tmp_path), projection=20, unit_features=True)
    with torch.no_grad():
        expected = theirs(reference.channels_first(images)).image_embeds
    expected = expected / expected.norm(dim=-1, keepdim=True)
    reference.assert_close(jax.jit(model.apply)(found, images), expected)


@pytest.mark.parametrize("registers", [0, 3])
@pytest.mark.parametrize("head", [True, False])
def test_logits_and_feature_maps_of_dinov2(head, registers, tmp_path):
    theirs, images = reference.dinov2(head, registers), reference.images(24)
    checkpoint = checkpoints.open_checkpoint(str(reference.save(theirs, tmp_path)), config_class)
    model = checkpoint.make_model(**({} if head else {"num_classes": 0}))
    shapes = loading.abstract(model)
    found = loading.plan(checkpoint, model, loading.leaves_of(shapes), exact=True).variables(shapes)
    ours = jax.jit(model.apply)(found, images)
    with torch.no_grad():
        expected = theirs(reference.channels_first(images))
    if head:
        reference.assert_close(ours, expected.logits)
        return
    tokens = expected.last_hidden_state[:, 1 + registers :]
    reference.assert_close(ours[0], tokens.reshape(2, 3, 3, 24))


def test_check_compares_logits_of_dinov2(tmp_path, capsys):
    reference.save(reference.dinov2(registers=2), tmp_path)
    interop.main(["check", str(tmp_path)])
    assert "logits [2, 5] differ by" in capsys.readouterr().out


def test_images_of_dinov2_have_the_size_of_its_positions(tmp_path):
    reference.save(reference.dinov2(), tmp_path / "theirs")
    file = {"image_processor_type": "BitImageProcessor", "size": {"shortest_edge": 16}, "crop_size": 12}
    (tmp_path / "theirs/preprocessor_config.json").write_text(json.dumps(file))
    lines = imports.run(str(tmp_path / "theirs"), str(tmp_path / "run"), config_class)
    data = runs.open_run(tmp_path / "run", config_class).config.data
    assert (data.image_size, data.resize) == (24, 32) and any("makes images of 12 px" in line for line in lines)


def test_a_model_without_layer_scale_cannot_take_that_of_dinov2(tmp_path):
    reference.save(reference.dinov2(), tmp_path)
    checkpoint = checkpoints.open_checkpoint(str(tmp_path), config_class)
    model = checkpoint.make_model(layer_scale=0.0)
    with pytest.raises(ValueError, match=r"config.model.layer_scale=0.0, but .* was made with 1.0; set it to that"):
        loading.plan(checkpoint, model, loading.leaves_of(loading.abstract(model)))


def test_positions_are_resized_where_a_run_begins_with_another_image_size(tmp_path):
    reference.save(reference.clip("VisionModel"), tmp_path)
    checkpoint = checkpoints.open_checkpoint(str(tmp_path), config_class)
    model = checkpoint.make_model(image_size=40, num_classes=5)
    plan = loading.plan(checkpoint, model, loading.leaves_of(loading.abstract(model)))
    assert plan.resized == {"positions": (1, 10, 24)} and set(plan.fresh) == {"head/kernel", "head/bias"}


@pytest.mark.parametrize(
    ("kind", "file", "expected"),
    [
        ("clip", {"feature_extractor_type": "CLIPFeatureExtractor", "size": 24, "crop_size": 24, "resample": 3},
         {"image_size": 24, "resize": 24, "stretch": False, "interpolation": "bicubic", "mean": (122.7709, 116.7460,
          104.0937), "std": (68.5005, 66.6322, 70.3232)}),
        ("siglip", {"image_processor_type": "SiglipImageProcessor", "size": {"height": 24, "width": 24}},
         {"image_size": 24, "resize": 24, "stretch": True, "interpolation": "bicubic", "mean": (127.5,) * 3,
          "std": (127.5,) * 3}),
    ],
)  # fmt: skip
def test_preprocessing(kind, file, expected, tmp_path):
    (tmp_path / preprocessing.FILE).write_text(json.dumps(file))
    data, lines = preprocessing.of_images(tmp_path, kind, 3, 24, 24)
    assert not lines
    for name, value in expected.items():
        assert data[name] == (pytest.approx(value, abs=1e-3) if isinstance(value, tuple) else value), name


# ---- Zero-shot classification.


def saved(kind, folder, **options):
    """A whole model with a tokenizer; the ids of texts by transformers' rules, and the model."""
    tokenizer = made("bpe")
    end = tokenizer.token_to_id("[SEP]")
    text = {"vocab_size": tokenizer.get_vocab_size(), "eos_token_id": end, "pad_token_id": 1} | options
    theirs = MODELS[kind](text=text)
    reference.save(theirs, folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    return theirs, tokenizer


def ids_of(tokenizer, texts, length=12):
    tokenizer.enable_truncation(length)
    tokenizer.enable_padding(pad_id=1, length=length)
    return torch.tensor([each.ids for each in tokenizer.encode_batch(texts)])


@pytest.mark.parametrize("kind", MODELS)
def test_a_zero_shot_classifier_has_the_logits_of_transformers(kind, tmp_path):
    theirs, tokenizer = saved(kind, tmp_path / "theirs")
    words = [f"--class={name}" for name in CLASSES]
    interop.main(
        ["import", str(tmp_path / "theirs"), f"--workdir={tmp_path}/run", "--zero-shot", *words,
         "--template=The {} number 3."]
    )  # fmt: skip
    images, ids = reference.images(24), ids_of(tokenizer, [f"The {name} number 3." for name in CLASSES])
    with torch.no_grad():
        expected = theirs(input_ids=ids, pixel_values=reference.channels_first(images)).logits_per_image
    run = runs.open_run(tmp_path / "run", config_class)
    assert isinstance(run.model, ViT) and run.model.num_classes == 3 and run.model.spec.unit_features
    assert run.config.build(recorded.read(tmp_path / "run"))[1].class_names == CLASSES  # as predict needs
    params = loading.abstract(run.model)
    params = jax.tree_util.tree_map_with_path(
        lambda path, leaf: run.tensors.read("/".join(key.key for key in path[1:])), params
    )
    reference.assert_close(jax.jit(run.model.apply)(params, images), expected)
    # Its image tower is exported without the head.
    lines = exports.run(str(tmp_path / "run"), str(tmp_path / "out"), config_class)
    assert [line for line in lines if line.startswith("left out head/")]
    name = "CLIPVisionModelWithProjection" if kind == "clip" else "SiglipVisionModel"
    again, said = getattr(reference.transformers, name).from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(said.values())
    before, after = theirs.state_dict(), again.state_dict()
    assert after and all(
        torch.equal(before[key if key in before else f"vision_model.{key}"], value) for key, value in after.items()
    )


@pytest.mark.long
def test_the_accuracy_on_a_folder_of_images_is_that_of_transformers(tmp_path, monkeypatch):
    """Classes are named by the folders; images are noise, of which a random model takes some for each class."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "data"))
    theirs, tokenizer = saved("clip", tmp_path / "theirs")
    file = {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 24}, "crop_size": 24}
    (tmp_path / "theirs/preprocessor_config.json").write_text(json.dumps(file))
    rng = np.random.default_rng(0)
    for index in range(60):
        folder = tmp_path / "photos" / ("train", "validation", "test")[index % 3] / ("a_cat", "dog")[index % 2]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (24, 24, 3)) * (index % 4 + 1) // 4
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{index}.png")
    workdir, words = f"--workdir={tmp_path}/run", f"--config.data.name=folder:{tmp_path}/photos"
    interop.main(["import", str(tmp_path / "theirs"), workdir, "--zero-shot", "--template=The {} sees.", words])
    run = runs.open_run(tmp_path / "run", config_class)
    found = image_classification.main(run.config, str(tmp_path / "run"), "evaluate")
    _, data = run.config.build()
    data.prepare()
    batch = next(iter(data.eval_batches("test", 20)))
    pixels = (batch["image"] - np.array(data.mean)) / np.array(data.std)
    with torch.no_grad():
        logits = theirs(
            input_ids=ids_of(tokenizer, ["The a cat sees.", "The dog sees."]),
            pixel_values=reference.channels_first(pixels.astype(np.float32)),
        ).logits_per_image.numpy()
    guesses = logits.argmax(1)
    assert 0 < guesses.sum() < len(guesses) == batch["weight"].sum()
    assert found["metrics"]["test/accuracy"] == pytest.approx((guesses == batch["label"]).mean())


@pytest.mark.parametrize("eos", ["config", "old"])
def test_features_of_texts_with_several_lengths(eos, tmp_path):
    """Texts of other lengths, one too long; in old configs of CLIP the end token is the one with the highest id."""
    theirs, tokenizer = saved("clip", tmp_path)
    if eos == "old":  # the model's ids are renamed so that [SEP] is the last
        end, last = theirs.config.text_config.eos_token_id, theirs.config.text_config.vocab_size - 1
        content = json.loads((tmp_path / "tokenizer.json").read_text())
        vocab = content["model"]["vocab"]
        other = next(name for name, index in vocab.items() if index == last)
        vocab["[SEP]"], vocab[other] = last, end
        for token in content["added_tokens"]:
            token["id"] = last if token["content"] == "[SEP]" else token["id"]
        content["post_processor"]["special_tokens"]["[SEP]"]["ids"] = [last]
        (tmp_path / "tokenizer.json").write_text(json.dumps(content))
        tokenizer = type(tokenizer).from_str(json.dumps(content))
        theirs.text_model.eos_token_id = theirs.config.text_config.eos_token_id = 2
        theirs.config.save_pretrained(tmp_path)
    texts = ["cat", "The dog number 12 sees a bird.", "bird " * 20]
    checkpoint = checkpoints.open_checkpoint(str(tmp_path), config_class)
    model, found = zero_shot.text_tower(checkpoint)
    with torch.no_grad():
        expected = theirs.get_text_features(ids_of(tokenizer, texts)).pooler_output
    expected = expected / expected.norm(dim=-1, keepdim=True)
    reference.assert_close(zero_shot.text_features(checkpoint, model, found, texts), expected)


def test_several_templates_are_averaged(tmp_path):
    saved("siglip", tmp_path)
    checkpoint = checkpoints.open_checkpoint(str(tmp_path), config_class)
    templates = ("The {} number 1.", "a {} sees")
    kernel, bias = zero_shot.head(checkpoint, zero_shot.Prompts(CLASSES, templates))
    alone = [zero_shot.head(checkpoint, zero_shot.Prompts(CLASSES, (each,)))[0] for each in templates]
    mean = sum(alone) / np.linalg.norm(sum(alone), axis=0) * np.exp(2.0)
    np.testing.assert_allclose(kernel, mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(bias, np.full(3, -3, np.float32))


def test_what_cannot_be_a_zero_shot_classifier_is_refused(tmp_path):
    saved("clip", tmp_path / "clip")
    reference.save(reference.vit(), tmp_path / "vit")
    begin = lambda folder, *words: refusal("import", tmp_path / folder, f"--workdir={tmp_path}/run", *words)
    assert "--zero-shot is for clip and siglip, but" in begin("vit", "--zero-shot", "--class=cat")
    assert "--zero-shot needs the names of classes" in begin("clip", "--zero-shot")
    assert "needs {}, which stands for" in begin("clip", "--zero-shot", "--class=cat", "--template=a cat")
    assert "names a class twice" in begin("clip", "--zero-shot", "--class=cat", "--class=cat")
    assert "are for --zero-shot only" in begin("clip", "--class=cat")
    (tmp_path / "clip/tokenizer.json").unlink()
    assert "tokenizer.json is missing" in begin("clip", "--zero-shot", "--class=cat")
    assert not (tmp_path / "run").exists()


def test_texts_without_an_end_are_refused():
    config = {"model_type": "clip", "text_config": {"eos_token_id": 7}}
    np.testing.assert_array_equal(text_towers.ends("clip", config, np.array([[1, 7, 7], [1, 2, 7]])), [1, 2])
    with pytest.raises(ValueError, match="adds no token 7 after a text"):
        text_towers.ends("clip", config, np.array([[1, 7, 0], [1, 2, 3]]))


def test_a_plain_import_has_a_fresh_head(tmp_path):
    saved("clip", tmp_path / "theirs")
    imports.run(str(tmp_path / "theirs"), str(tmp_path / "run"), config_class)
    assert not np.any(variables(tmp_path / "run")["head/kernel"])
    assert runs.open_run(tmp_path / "run", config_class).model.spec.projection == 0
