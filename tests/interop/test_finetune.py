"""The experiments train on from an imported checkpoint: whole commands, with random weights."""

import json
import re

import numpy as np
import pytest

from research.cli import experiment as command_line
from research.data import prepare
from research.interop import __main__ as interop
from tests.interop.test_big_vision import random_weights

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A folder of prepared data that the commands find."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "data"))
    return lambda name: prepare.prepare(name)


def experiment(name, *words):
    """Runs an experiment's command in this process."""
    module = __import__(f"experiments.{name}.main", fromlist=["main"])
    command_line.run(module.main, [*map(str, words)])


SHORT = [
    "--config.train.steps=2", "--config.train.batch_size=8", "--config.train.eval_batch_size=64",
    "--config.optimizer.warmup_steps=0", "--config.train.log_every=1",
]  # fmt: skip


@pytest.mark.long
def test_images_from_an_imported_run(data, tmp_path, capsys):
    """A head of 10 classes in the place of one of 4, and images of 16 px in the place of 8."""
    data("digits")
    np.savez(tmp_path / "vit.npz", **random_weights(image_size=8, classes=4, cls=True))
    run = tmp_path / "imported"
    interop.main(["import", str(tmp_path / "vit.npz"), f"--workdir={run}", "--config.data.name=digits"])
    config = f"--config={run}/image_classification/imported.py"
    with pytest.raises(SystemExit) as left:  # digits have one channel
        experiment("image_classification", config, f"--config.train.init_from={run}", *SHORT, f"--workdir={tmp_path}/a")
    assert left.value.code == 2
    assert re.search(r"error: .*\[4, 4, 3, 24\].*patches/kernel \[4, 4, 1, 24\]", capsys.readouterr().err)
    experiment(
        "image_classification", config, f"--config.train.init_from={run}", "--config.train.init_skip=('patches',)",
        "--config.data.image_size=16", "--config.data.resize=16", "--config.model.image_size=16", *SHORT,
        f"--workdir={tmp_path}/b",
    )  # fmt: skip
    report = json.loads((tmp_path / "b/init_from.json").read_text())
    assert sorted(report["fresh"]) == ["head/bias", "head/kernel", "patches/bias", "patches/kernel"]
    assert report["resized"] == {"positions": [[1, 5, 24], [1, 17, 24]]}
    assert (tmp_path / "b/result.json").exists()
    assert "initialised head/kernel: head/kernel is [24, 4], of other classes" in capsys.readouterr().err


@pytest.mark.long
def test_an_imported_run_is_evaluated_and_trained_on(data, tmp_path, capsys):
    """As it is, from its step 0, where its classes are those of the data."""
    data("digits")
    tensors = random_weights(image_size=8, classes=10, cls=False)
    tensors["embedding/kernel"] = tensors["embedding/kernel"][:, :, :1]
    np.savez(tmp_path / "vit.npz", **tensors)
    run = tmp_path / "run"
    fit = ["--config.data.name=digits", "--config.data.mean=(77.0,)", "--config.data.std=(96.0,)"]
    interop.main(["import", str(tmp_path / "vit.npz"), f"--workdir={run}", *fit])
    words = [f"--config={run}/image_classification/imported.py", f"--workdir={run}"]
    experiment("image_classification", *words, "--mode=evaluate")
    assert re.search(r"step 0: .*test/accuracy 0\.\d+", capsys.readouterr().out)
    experiment("image_classification", *words, "--config.train.steps=60")
    assert (run / "result.json").exists()
    assert "continuing at step 0" in capsys.readouterr().err


@pytest.mark.long
def test_translation_from_a_random_t5(data, tmp_path, capsys):
    from tests.interop import reference

    data("spelled_numbers")
    reference.save(reference.t5(vocab_size=400), tmp_path / "theirs")
    experiment(
        "translation", "--config=configs/translation/wmt14_en_de.py:smoke",
        f"--config.train.init_from={tmp_path}/theirs", "--config.train.init_skip=('^embedding$', '^head$')",
        "--config.model.width=24", "--config.model.encoder_depth=2",
        "--config.model.decoder_depth=3", "--config.model.num_heads=3", "--config.model.kv_dim=10",
        "--config.model.mlp_dim=40", "--config.model.relative_buckets=8", "--config.model.relative_distance=12",
        *T5, *SHORT, f"--workdir={tmp_path}/run",
    )  # fmt: skip
    report = json.loads((tmp_path / "run/init_from.json").read_text())
    assert report["fresh"] == {"embedding": "skipped", "head": "skipped"}  # of tokens that these texts do not have
    assert sorted(report["left_over"]) == ["lm_head.weight", "shared.weight"] and report["kind"] == "t5"
    assert (tmp_path / "run/result.json").exists()


@pytest.mark.long
def test_recognition_from_a_random_whisper(data, tmp_path, capsys):
    """Fresh words, and less of them; what is exported after that agrees with transformers."""
    from tests.interop import reference

    data("dial_tones")
    theirs = reference.whisper(max_source_positions=60, num_mel_bins=20, encoder_layers=1, decoder_layers=1)
    reference.save(theirs, tmp_path / "theirs")
    run = tmp_path / "imported"
    interop.main(["import", str(tmp_path / "theirs"), f"--workdir={run}"])
    words = [
        f"--config={run}/speech_recognition/imported.py", f"--config.train.init_from={run}",
        "--config.train.init_skip=('^embedding$',)", "--config.data.name=dial_tones",
        "--config.data.vocab_size=64", "--config.data.vocab_type=bpe", "--config.data.target_length=8",
        "--config.task.max_decode_length=8", "--config.task.decoder=greedy", *SHORT,
        f"--workdir={tmp_path}/run",
    ]  # fmt: skip
    experiment("speech_recognition", *words)
    report = json.loads((tmp_path / "run/init_from.json").read_text())
    assert report["fresh"] == {"embedding": "skipped"}
    assert report["resized"] == {"decoder/learned": [[16, 24], [8, 24]]} and report["left_over"] == ["embedding"]
    assert json.loads((tmp_path / "run/result.json").read_text())["metrics"]["test/wer"] > 0
    capsys.readouterr()
    interop.main(["export", f"{tmp_path}/run", f"{tmp_path}/out"])
    interop.main(["check", f"{tmp_path}/out"])
    lines = capsys.readouterr().out
    assert "logits [2, 8, 64] differ by" in lines
    written = json.loads((tmp_path / "out/config.json").read_text())
    assert (written["eos_token_id"], written["decoder_start_token_id"]) == (1, 3)


T5 = [
    "--config.model.norm=rms", "--config.model.norm_position=pre", "--config.model.activation=gelu_tanh",
    "--config.model.gated=True", "--config.model.bias=False", "--config.model.attention_scale=False",
    "--config.model.encoder_positions=relative", "--config.model.decoder_positions=relative",
    "--config.model.embedding_scale=False", "--config.model.logits=untied",
]  # fmt: skip
