"""Whisper against transformers; round trips; initialising models with another vocabulary."""

import json

import jax
import numpy as np
import pytest

from research import config as config_lib
from research.cli.experiments import config_class
from research.data.sound import audio, utterances
from research.interop import __main__ as interop
from research.interop import exports, imports, initial_weights, runs, safetensors
from research.interop.families import whisper
from research.interop.safetensors import TensorSpec
from research.models import decoding
from research.train import trainer
from tests.interop import reference
from tests.interop.reference import torch, transformers

pytestmark = pytest.mark.usefixtures("quick_compilation")
POSITIONS, STEPS = 20, 12


def rows(batch, length):
    """Segments and positions of whole rows."""
    return np.ones((batch, length), np.int32), np.broadcast_to(np.arange(length), (batch, length))


def spectrograms(positions=POSITIONS, mels=10, batch=3):
    return np.random.default_rng(0).normal(0, 1, (batch, 2 * positions, mels)).astype(np.float32)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A small model with random weights, and the folder that transformers wrote."""
    theirs = reference.whisper()
    return theirs, reference.save(theirs, tmp_path_factory.mktemp("whisper") / "theirs")


def check(theirs, folder, positions, mels, length, batch):
    """What the encoder hears, and the decoder's logits."""
    source = spectrograms(positions, mels, batch)
    target = np.random.default_rng(1).integers(0, theirs.config.vocab_size, (batch, length))
    with torch.no_grad():
        out = theirs(input_features=torch.tensor(source).mT, decoder_input_ids=torch.tensor(target))
    model, variables = reference.load(folder, mels)

    @jax.jit
    def ours(variables):
        inputs = rows(batch, positions)
        encoded = model.apply(variables, source, *inputs, method="encode")
        return encoded, model.apply(variables, encoded, inputs[0], target, *rows(batch, length), method="decode")

    encoded, logits = ours(variables)
    reference.assert_close(encoded, out.encoder_last_hidden_state)
    reference.assert_close(logits, out.logits)
    return model


def test_encoder_and_decoder_are_those_of_transformers(saved):
    model = check(*saved, positions=POSITIONS, mels=10, length=16, batch=3)
    assert (model.spec.encoder_positions, model.max_source_length, model.max_target_length) == (
        "sinusoidal",
        POSITIONS,
        16,
    )


@pytest.mark.long
@pytest.mark.parametrize("name", ["other sizes", "trained positions"])
def test_other_models_agree_too(name, tmp_path):
    if name == "other sizes":
        theirs = reference.whisper(
            d_model=32, encoder_attention_heads=2, decoder_attention_heads=2, encoder_layers=1, decoder_layers=1,
            encoder_ffn_dim=24, decoder_ffn_dim=24, activation_function="relu", num_mel_bins=16,
        )  # fmt: skip
    else:
        theirs = reference.whisper()
        with torch.no_grad():
            positions = theirs.model.encoder.embed_positions.weight
            positions += 0.3 * torch.randn(positions.shape, generator=torch.Generator().manual_seed(3))
    model = check(theirs, reference.save(theirs, tmp_path), POSITIONS, theirs.config.num_mel_bins, length=5, batch=2)
    assert model.spec.encoder_positions == ("sinusoidal" if name == "other sizes" else "learned")


def test_greedy_generation_gives_the_same_tokens(tmp_path):
    theirs, eos = reference.whisper(), 25  # which one of the rows says
    source, inputs = spectrograms(), rows(3, POSITIONS)
    with torch.no_grad():
        # Else the tied logits would be largest for the token that was read.
        theirs.model.decoder.embed_tokens.weight *= 0.25
        theirs.model.decoder.embed_positions.weight *= 2
        # What their Whisper adds to it, such as time stamps, is left out.
        expected = transformers.GenerationMixin.generate(
            theirs, torch.tensor(source).mT, do_sample=False, num_beams=1, max_new_tokens=STEPS, eos_token_id=eos,
            pad_token_id=0,
        ).numpy()[:, 1:]  # fmt: skip
    model, variables = reference.load(reference.save(theirs, tmp_path), 10)

    @jax.jit
    def generate(variables):
        apply = lambda method, *args: model.apply(variables, *args, method=method)
        cache = apply("init_cache", apply("encode", source, *inputs), inputs[0], STEPS)
        step = lambda *args: apply("decode_step", *args)
        return decoding.greedy(step, cache, len(source), STEPS, bos=7, eos=eos)[0]

    ours = np.asarray(generate(variables))[:, : expected.shape[1]]
    assert len(np.unique(expected)) > 5 and len(np.unique((expected == 0).sum(1))) > 1
    np.testing.assert_array_equal(ours, expected)


# ---- Commands.


@pytest.fixture(scope="module")
def imported(saved, tmp_path_factory):
    folder = tmp_path_factory.mktemp("imported") / "run"
    lines = imports.run(str(saved[1]), str(folder), config_class)
    assert "whisper: vocab_size=40, strides=(1, 2), width=24, " in lines[0] and lines[-1].startswith("wrote ")
    return folder


def variables_of(workdir):
    """What the run in `workdir` evaluates, by path."""
    tensors = runs.open_run(workdir, config_class).tensors
    return {path: tensors.read(path) for path in tensors.specs}


def test_import_export_import_is_bitwise_and_transformers_reads_it(saved, imported, tmp_path):
    theirs, _ = saved
    exports.run(str(imported), str(tmp_path / "out"), config_class, most_bytes=20_000)
    assert len(list((tmp_path / "out").glob("model-*.safetensors"))) > 1
    imports.run(str(tmp_path / "out"), str(tmp_path / "again"), config_class)
    reference.assert_same(variables_of(imported), variables_of(tmp_path / "again"))
    assert runs.open_run(imported, config_class).model == runs.open_run(tmp_path / "again", config_class).model
    read, info = type(theirs).from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not info["unexpected_keys"] and not info["mismatched_keys"] and not info["missing_keys"]
    before, after = theirs.state_dict(), read.state_dict()
    computed = "model.encoder.embed_positions.weight"
    assert all(torch.equal(before[key], after[key]) for key in before if key != computed)
    assert (before[computed] - after[computed]).abs().max() < 1e-5
    for field in ("decoder_start_token_id", "eos_token_id", "pad_token_id", "num_mel_bins", "max_source_positions"):
        assert getattr(read.config, field) == getattr(theirs.config, field)


def test_check_compares_logits(saved, capsys):
    interop.main(["check", str(saved[1])])
    out = capsys.readouterr().out
    assert "logits [2, 16, 40] differ by " in out
    assert "left over: model.encoder.embed_positions.weight" in out


def test_a_model_without_its_name_is_read(tmp_path):
    theirs = reference.whisper(head=False)
    _, variables = reference.load(reference.save(theirs, tmp_path), 10)
    expected = theirs.decoder.embed_tokens.weight.detach().numpy()
    np.testing.assert_array_equal(variables["params"]["embedding"], expected)


def rewritten(saved, folder, change=lambda tensors: None, **config):
    from safetensors.numpy import load_file, save_file

    folder.mkdir()
    tensors = load_file(saved[1] / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
    text = json.loads((saved[1] / "config.json").read_text()) | config
    (folder / "config.json").write_text(json.dumps(text))
    return folder


KEY = "model.encoder.layers.1.self_attn.k_proj"


@pytest.mark.parametrize(
    ("change", "config", "message"),
    [
        (lambda t: t.pop(f"{KEY}.weight"), {}, f"attention/key/kernel needs {KEY}.weight, which is missing in"),
        (lambda t: t.update({f"{KEY}.bias": np.zeros(24, np.float32)}), {}, f"first {KEY}.bias"),
        (lambda t: None, {"decoder_attention_heads": 2}, "config.json has decoder_attention_heads=2, which is not"),
        (
            lambda t: None,
            {"encoder_attention_heads": 5, "decoder_attention_heads": 5},
            "must be divisible by encoder_attention_heads=5",
        ),
        (lambda t: None, {"scale_embedding": True}, "scale_embedding=True, which is not supported; it must be False"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused(saved, change, config, message, tmp_path):
    folder = rewritten(saved, tmp_path / "theirs", change, **config)
    with pytest.raises(ValueError) as caught:
        imports.run(str(folder), str(tmp_path / "run"), config_class)
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def begun(path, skip, **overrides):
    """What becomes of the parameters of a config for LibriSpeech, with CTC beside the decoder."""
    words = [f"train.init_from={path}", f"train.init_skip={skip}", "data.mels=10"]
    sizes = {"width": 24, "decoder_depth": 3, "num_heads": 3, "kv_dim": 8, "mlp_dim": 40}
    words += [f"model.{name}={value}" for name, value in (sizes | overrides).items()]
    config = config_lib.load("configs/speech_recognition/librispeech_whisper_small.py", "smoke", words)
    task, _ = config.build()
    return initial_weights.open_weights(config.train, task, trainer.build(config, task), None, config_class)


@pytest.mark.parametrize("source", ["transformers", "run"])
def test_another_vocabulary_and_a_ctc_head_are_initialised(saved, imported, source):
    path = saved[1] if source == "transformers" else imported
    weights = begun(path, "('^embedding$', '^ctc_head$')")
    assert weights.report()["fresh"] == {"embedding": "skipped", "ctc_head": "skipped"}
    assert weights.report()["resized"] == {"decoder/learned": [[16, 24], [8, 24]]}
    before = np.asarray(variables_of(imported)["decoder/learned"])
    found = weights.plan.read("decoder/learned", (slice(2, 5), slice(None)), np.float32)
    np.testing.assert_array_equal(found, before[2:5])
    place = "embed_tokens.weight" if source == "transformers" else "embedding"
    with pytest.raises(ValueError, match=rf"{place} is \[40, 24\] in .*or add it to config.train.init_skip"):
        begun(path, "('^ctc_head$',)")
    with pytest.raises(
        ValueError, match=r"config\.model.encoder_positions='learned', but .* was made with 'sinusoidal'"
    ):
        begun(path, "('^embedding$', '^ctc_head$')", encoder_positions="learned")


def test_an_export_leaves_a_ctc_head_behind(saved, imported):
    class Ours:
        specs = dict(runs.open_run(imported, config_class).tensors.specs) | {
            "ctc_head": TensorSpec((24, 40), np.dtype(np.float32))
        }

        def read(self, name):
            return np.zeros(self.specs[name].shape, np.float32)

    model = runs.open_run(imported, config_class).model.clone(ctc=True)
    specs, _, left_out = exports._tensors(whisper.FAMILY, model, Ours())
    assert left_out == ["ctc_head"] and not [name for name in specs if "ctc" in name]
    assert specs.keys() == safetensors.Safetensors(saved[1] / "model.safetensors").specs.keys()


# ---- Spectrograms.


def test_spectrograms_are_those_of_whisper(imported):
    """With the data settings that an import writes, whatever the length of the sound."""
    theirs = transformers.WhisperFeatureExtractor(feature_size=80, chunk_length=4)
    data = json.loads((imported / "config.json").read_text())["data"]
    settings = {name: data[name] for name in ("sample_rate", "normalise", "pad_mode", "range_db")}
    mel = audio.LogMel(audio.MelSpec(**settings, mels=80))
    transform = utterances.UtterancesToArrays(mel, 400, 4, 2, silence=data["padding"] == "silence")
    rng = np.random.default_rng(0)
    for samples in (64_000, 40_123, 900):
        time = np.arange(samples) / 16_000
        sound = 0.3 * np.sin(2 * np.pi * 200 * time * (1 + time)) + 0.01 * rng.normal(size=samples)
        sound = (sound + 0.2).astype(np.float32)  # so that its edges are audible
        expected = theirs(sound, sampling_rate=16_000, return_tensors="np")["input_features"][0].T
        found = transform((sound, np.array([3, 1], np.int32)))
        np.testing.assert_allclose(found["source"], expected, atol=1e-4)
        assert found["source_segments"].all() and len(found["source_segments"]) == 200
