"""From files of images, texts and sounds to what models make of them: imported checkpoints beside transformers."""

import json
import re
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

from research.cli.experiments import config_class
from research.data.images import classification, transforms
from research.data.images import files as image_files
from research.data.images.spec import ImageSpec
from research.data.sound import audio, speech, utterances
from research.data.sound import files as sound_files
from research.interop import checkpoints, imports, preprocessing
from tests.interop import reference
from tests.interop.reference import torch, transformers
from tests.running import run

pytestmark = pytest.mark.usefixtures("quick_compilation")
CLASSES = ("ant", "bee", "cow", "dog", "elk")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """What is small takes PyTorch longer on several threads, the more so on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def photo(path, width=67, height=41, seed=0):
    """Smooth colours with fine noise, so that every crop and every way of resizing gives other pixels."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 7, 3), np.uint8)).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    pixels = np.asarray(coarse, np.float32) + rng.normal(0, 25, (height, width, 3))
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path)
    return path


def processor(kind, **options):
    return getattr(transformers, f"{kind}ImageProcessorPil")(**options)


def theirs(kind, options, path):
    with Image.open(path) as image:
        return processor(kind, **options)(images=image, return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)


def ours(folder, path, family="vit"):
    """What `research.data` makes of a file, with the settings that an import writes."""
    settings, _ = preprocessing.of_images(folder, family, 3, None, 224)
    shape = (None, None, 3)
    _, evaluate = classification.make_transforms(ImageSpec(**settings), shape, "image", "label")
    pixels = transforms.to_array(evaluate.frame(image_files.read(str(path), 3))).astype(np.float32)
    return (pixels - np.float32(settings["mean"])) / np.float32(settings["std"])


@pytest.mark.parametrize("sides", [(67, 41), (40, 95), (33, 33), (512, 23)])
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("ViT", {"size": 32}),
        ("ViT", {"size": {"height": 24, "width": 24}, "resample": 3, "image_mean": [0.4, 0.5, 0.6]}),
        ("ViT", {"size": 30, "do_normalize": False}),
        ("ViT", {"size": 30, "do_rescale": False, "image_mean": [99.0, 1.0, 7.0], "image_std": [3.0, 40.0, 50.0]}),
        ("ViT", {"size": 30, "rescale_factor": 1 / 127.5, "image_mean": [1.0] * 3, "image_std": [1.0] * 3}),
        ("ViT", {"size": 30, "do_rescale": False, "do_normalize": False, "resample": 1}),
        ("ViT", {"size": {"shortest_edge": 40}, "do_center_crop": True, "crop_size": 32, "resample": 0}),
        ("DeiT", {}),
        ("DeiT", {"size": 40, "crop_size": {"height": 33, "width": 33}}),
        ("Bit", {}),
        ("Bit", {"size": {"shortest_edge": 47}, "crop_size": 31, "resample": 4}),
        ("ConvNext", {}),
        ("ConvNext", {"size": {"shortest_edge": 224}, "crop_pct": 0.875}),
        ("ConvNext", {"size": 32, "crop_pct": 0.95, "image_std": [0.2, 0.3, 0.25]}),
        ("ConvNext", {"size": {"shortest_edge": 383}}),
        ("ConvNext", {"size": {"shortest_edge": 384}, "crop_pct": 1.0}),
    ],
)
def test_pixels_are_those_of_the_processor(kind, options, sides, tmp_path):
    path = photo(tmp_path / "photo.png", *sides)
    processor(kind, **options).save_pretrained(tmp_path)
    expected = theirs(kind, options, path)
    found = ours(tmp_path, path)
    assert expected.std() > 0 and found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    ("family", "kind", "file"),
    [
        ("vit", "ViT", {"size": 24, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}),
        ("vit", "ViT", {"size": 24, "feature_extractor_type": "ViTFeatureExtractor", "do_normalize": True}),
        ("resnet", "ConvNext", {"size": 24, "crop_pct": 0.875, "feature_extractor_type": "ConvNextFeatureExtractor"}),
        ("convnext", "ConvNext", {"size": 384, "crop_pct": 1.0, "resample": 3}),
        ("convnext", "ConvNext", {"image_processor_type": "ConvNextImageProcessorFast", "size": {"shortest_edge": 24}}),
    ],
)
def test_files_of_older_versions_are_read_as_they_were_meant(family, kind, file, tmp_path):
    path = photo(tmp_path / "photo.png")
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(file))
    options = {name: value for name, value in file.items() if not name.endswith("_type")}
    np.testing.assert_allclose(ours(tmp_path, path, family), theirs(kind, options, path), rtol=1e-5, atol=1e-4)


# ---- From a file to the probabilities that the command line prints.


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Photos of a class each, and a folder for what is prepared of them."""
    root = tmp_path_factory.mktemp("photos")
    for number, name in enumerate(CLASSES):
        (root / "photos" / name).mkdir(parents=True)
        for index in range(6):
            photo(root / "photos" / name / f"{index}.png", seed=10 * number + index)
    return root


MODELS = {
    "vit": (lambda: reference.vit(num_labels=5), "ViT", {"size": 24}),
    "vit of DeiT": (lambda: reference.vit(num_labels=5), "DeiT", {"size": 28, "crop_size": 24}),
    "convnext": (lambda: reference.convnext(num_labels=5), "ConvNext", {"size": {"shortest_edge": 64}}),
    "convnext 384": (lambda: reference.convnext(num_labels=5), "ConvNext", {"size": {"shortest_edge": 384}}),
    "resnet": (
        lambda: reference.resnet("basic", depths=(1, 1), hidden_sizes=(8, 16)), "ConvNext",
        {"size": {"shortest_edge": 64}, "crop_pct": 0.875, "image_std": [0.2, 0.25, 0.3]},
    ),
}  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize("name", MODELS)
def test_probabilities_of_a_file_are_those_of_transformers(name, photos, tmp_path):
    """The weights are named by their file, beside which the processor lies."""
    model, kind, options = MODELS[name]
    model, path = model(), photo(tmp_path / "photo.png")
    reference.save(model, tmp_path / "theirs")
    processor(kind, **options).save_pretrained(tmp_path / "theirs")
    pixels = theirs(kind, options, path)

    def expected(pixels):
        with torch.no_grad():
            return model(reference.channels_first(pixels[None])).logits.softmax(-1)[0].numpy()

    here = tmp_path / "run"
    done = run([
        "research.interop", "import", tmp_path / "theirs/model.safetensors", f"--workdir={here}",
        f"--config.data.name=folder:{photos / 'photos'}", f"--config.data.dir={photos / 'prepared'}",
    ])  # fmt: skip
    assert done.code == 0, done.err
    words = [f"--config={here}/image_classification/imported.py", f"--workdir={here}", "--mode=predict", path]
    done = run(["experiments.image_classification.main", *words])
    assert done.code == 0, done.err
    shown = dict(re.findall(r"(\w+) (\d+\.\d)%", done.out))
    found = np.array([float(shown[name]) / 100 for name in CLASSES])
    np.testing.assert_allclose(found, expected(pixels), atol=1e-3)
    # What it would be of another mean, and of an image that is cut off elsewhere, is something else.
    cut = {"size": {"shortest_edge": round(1.2 * len(pixels))}, "crop_size": len(pixels)}
    halves = {"image_mean": [0.5] * 3, "image_std": options.get("image_std", [0.5] * 3)}
    for other in (pixels + 0.2, theirs("Bit", cut | halves, path)):
        assert np.abs(expected(other) - expected(pixels)).max() > 2e-3


# ---- Text.


def vocabulary(folder, **options):
    """A sentencepiece model with the special ids of T5, as `spiece.model`."""
    import sentencepiece

    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("abcdefgh"), rng.integers(1, 6))) for _ in range(60)]
    lines = [" ".join(rng.choice(words, 8)) for _ in range(200)]
    folder.mkdir(exist_ok=True)
    with open(folder / "spiece.model", "wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines), model_writer=file, minloglevel=2,
            **{"vocab_size": 60, "pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1} | options,
        )  # fmt: skip
    return lines


def t5(**options):
    return reference.t5(vocab_size=60, num_layers=2, num_decoder_layers=2, **options)


@pytest.mark.long
def test_a_text_gives_the_text_of_transformers(tmp_path):
    model, folder = t5(untied=False), tmp_path / "theirs"
    lines = vocabulary(folder)
    reference.save(model, folder)
    tokenizer = transformers.T5Tokenizer.from_pretrained(folder, extra_ids=0)
    text, options = lines[1], {"do_sample": False, "num_beams": 1, "max_new_tokens": 12}
    with torch.no_grad():
        tokens = model.generate(**tokenizer(text, return_tensors="pt"), **options)[0].tolist()
    expected = tokenizer.decode(tokens, skip_special_tokens=True)
    assert len(set(tokens)) > 6 and 2 not in tokens  # unknown words are written in another way
    here = tmp_path / "run"
    done = run([
        "research.interop", "import", folder / "model.safetensors", f"--workdir={here}",
        "--config.data.name=spelled_numbers", "--config.task.decoder=greedy", "--config.task.max_decode_length=12",
    ])  # fmt: skip
    assert done.code == 0, done.err
    words = [f"--config={here}/translation/imported.py", f"--workdir={here}", "--mode=predict", text]
    done = run(["experiments.translation.main", *words])
    assert done.code == 0, done.err
    assert done.out.strip("\n") == f"{text}\t{expected}"


def test_a_text_gives_the_ids_of_transformers(tmp_path):
    from research.data.text.vocabulary import Vocabulary

    lines = vocabulary(tmp_path)
    theirs = transformers.T5Tokenizer.from_pretrained(tmp_path, extra_ids=0)
    words = Vocabulary.of_file(str(tmp_path / "spiece.model"), 60)
    for text in (*lines[:20], "  two  spaces\tand a tab ", "Capitals, é and 数"):
        assert [*words.encode(text), words.eos] == theirs(text)["input_ids"], text


@pytest.fixture(scope="module")
def saved_t5(tmp_path_factory):
    return reference.save(t5(), tmp_path_factory.mktemp("t5") / "theirs")


def refusal(folder, here, *words):
    return run(["research.interop", "import", folder, f"--workdir={here}", *words]).error


def test_a_t5_without_its_vocabulary_gets_no_other(saved_t5, tmp_path):
    folder = shutil.copytree(saved_t5, tmp_path / "theirs")
    (folder / "tokenizer.json").write_text("{}")
    assert "tokenizer.json but no spiece.model" in refusal(folder, tmp_path / "run")
    (folder / "tokenizer.json").unlink()
    vocabulary(folder, bos_id=3)
    assert "decoder_start_token_id=0, which is not supported" in refusal(folder, tmp_path / "run")
    vocabulary(folder, pad_id=3, eos_id=1, unk_id=0)
    assert "has pad, eos and unk at (3, 1, 0)" in refusal(folder, tmp_path / "run")
    (folder / "spiece.model").write_bytes(b"no model")
    assert "is not a sentencepiece model" in refusal(folder, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "fields",
    [
        {"dense_act_fn": "relu"}, {"is_gated_act": False}, {"feed_forward_proj": "gated-silu"}, {"pad_token_id": 1},
        {"eos_token_id": 2}, {"head_dim": 12}, {"num_hidden_layers": 3}, {"is_encoder_decoder": False},
        {"relative_attention_num_buckets": 2}, {"relative_attention_max_distance": 4}, {"layer_norm_epsilon": "x"},
        {"tie_word_embeddings": "no"}, {"num_decoder_layers": 0}, {"d_kv": 10**6}, {"num_layers": 10**6},
    ],
)  # fmt: skip
def test_fields_of_t5_that_ours_cannot_do_are_refused(saved_t5, fields, tmp_path):
    folder = shutil.copytree(saved_t5, tmp_path / "theirs")
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))
    refusal(folder, tmp_path / "run")


@pytest.mark.long
def test_nothing_at_all_beside_a_t5_leaves_a_run_that_takes_no_other_vocabulary(saved_t5, tmp_path):
    here = tmp_path / "run"
    done = run(["research.interop", "import", saved_t5, f"--workdir={here}", "--config.data.name=spelled_numbers"])
    assert f"no spiece.model is beside the weights; put it at {here / 'spiece.model'}" in done.out
    words = [f"--config={here}/translation/imported.py", f"--workdir={here}"]
    error = run(["experiments.translation.main", *words, "--mode=predict", "one two"]).error
    assert "spiece.model' cannot be read" in error


# ---- Sound.


def whisper(folder, **extractor):
    theirs = reference.whisper(num_mel_bins=80, max_source_positions=100)
    reference.save(theirs, folder)
    kind = transformers.WhisperFeatureExtractor(**{"feature_size": 80, "chunk_length": 2} | extractor)
    kind.save_pretrained(folder)
    return theirs, kind


def sound(path, samples=23_456, rate=16_000):
    soundfile = pytest.importorskip("soundfile")
    time = np.arange(samples) / rate
    wave = 0.3 * np.sin(2 * np.pi * 200 * time * (1 + time)) + 0.01 * np.random.default_rng(0).normal(size=samples)
    soundfile.write(path, wave.astype(np.float32), rate, subtype="FLOAT")
    return path


def test_a_sound_file_gives_the_logits_of_whisper(tmp_path):
    theirs, extractor = whisper(tmp_path / "theirs")
    samples, rate = sound_files.read(sound(tmp_path / "sound.wav"))
    imports.run(str(tmp_path / "theirs/model.safetensors"), str(tmp_path / "run"), config_class)
    # The ids of no other vocabulary go with its embeddings.
    assert checkpoints.open_checkpoint(str(tmp_path / "run"), config_class).vocabulary == "of Whisper"
    data = json.loads((tmp_path / "run/config.json").read_text())["data"]
    mel = audio.LogMel(speech.SpeechSpec(**data))
    frames = round(data["max_seconds"] * data["sample_rate"]) // mel.hop
    arrays = utterances.UtterancesToArrays(mel, frames, 4, 2, silence=data["padding"] == "silence")(
        (samples, np.array([3, 1]))
    )
    expected = extractor(samples, sampling_rate=rate, return_tensors="pt")["input_features"]
    np.testing.assert_allclose(arrays["source"], expected[0].T, atol=1e-4)
    ids = np.array([[7, 3, 9, 20]])
    with torch.no_grad():
        logits = theirs(input_features=expected, decoder_input_ids=torch.tensor(ids)).logits
    model, variables = reference.load(tmp_path / "theirs", 80)
    rows = lambda length: (np.ones((1, length), np.int32), np.arange(length)[None])
    inputs = arrays["source"][None], *rows(frames // 2), ids, *rows(4)
    found = jax.jit(lambda variables: model.apply(variables, *inputs))(variables)
    np.testing.assert_allclose(found, logits.numpy(), atol=1e-3 * float(logits.abs().max()))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("feature_size", 128, "weights need 80 mel bands"),
        ("sampling_rate", 8_000, "the bands reach up to 8,000 Hz"),
        ("hop_length", 80, "which at hop_length=80 gives 400 frames, but the weights need 200"),
        ("chunk_length", 30, "which at hop_length=160 gives 3000 frames, but the weights need 200"),
        ("dither", 0.1, "it must be 0.0"),
        ("do_normalize", True, "it must be False"),
        ("n_fft", "400", "must be an integer"),
        ("feature_extractor_type", "Wav2Vec2FeatureExtractor", "it must be WhisperFeatureExtractor"),
    ],
)
def test_spectrograms_that_are_not_ours_are_refused(field, value, message, tmp_path):
    whisper(tmp_path / "theirs")
    file = tmp_path / "theirs/preprocessor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {field: value}))
    error = refusal(tmp_path / "theirs", tmp_path / "run")
    assert message in error and f"{field}=" in error
    assert not (tmp_path / "run").exists()
