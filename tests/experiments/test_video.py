"""A trained classifier of motion uses the order of frames."""

import re

import av
import jax
import numpy as np
import pytest

from experiments.video import main
from research import config as configs
from research.cli.experiments import config_class
from research.data import prepare
from research.data.clips.builders import moving_digits
from research.interop import checkpoints, exports, loader, loading, stablehlo
from research.report import plots
from research.train import trainer
from tests.experiments.conftest import ROOT

CONFIG = str(ROOT / "configs/video/digits_vivit.py")
SETTINGS = (
    "data.name=moving_digits/sense", "train.steps=400", "train.batch_size=32", "train.eval_every=400",
    "train.checkpoint_every=400", "optimizer.warmup_steps=20", "optimizer.learning_rate=4e-3", "model.width=32",
    "model.mlp_dim=64", "train.eval_batch_size=80",
)  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A config, its run directory and its result."""
    root = tmp_path_factory.mktemp("video")
    prepare.prepare("moving_digits/sense", data_dir=str(root))
    config = configs.load(CONFIG, "smoke", (*SETTINGS, f"data.dir={root}"))
    return config, str(root / "run"), main.main(config, str(root / "run"), "train")


@pytest.mark.long
def test_shuffled_frames_fall_to_chance_and_reversed_ones_to_the_other_class(trained):
    config, workdir, result = trained
    assert result["metrics"]["test/accuracy"] > 0.9
    accuracy = {}
    for order in ("original", "shuffled", "reversed"):
        task, data = config.build(order=order)
        predict, right = trainer.Predictor(config, task, data, workdir), []
        for batch in data.eval_batches("test", 100):
            right += list(predict(batch)["probabilities"].argmax(1) == batch["label"])
        accuracy[order] = np.mean(right)
    assert accuracy["original"] == pytest.approx(result["metrics"]["test/accuracy"])
    assert 0.42 < accuracy["shuffled"] < 0.58  # of 400 clips: three standard deviations and a little
    assert accuracy["reversed"] < 0.1


@pytest.mark.long
def test_another_run_begins_with_its_weights(trained):
    config, workdir, _ = trained
    task, _ = config.build()
    leaves = loading.leaves_of(jax.eval_shape(task.init, jax.random.key(0)))
    plan = loading.plan(checkpoints.open_checkpoint(workdir, config_class), task.model, leaves)
    assert set(plan.rows) == set(leaves) and not plan.left_over
    with pytest.raises(ValueError, match=r"no family .* for a VideoViT"):
        exports.run(workdir, workdir + "/exported", config_class)


@pytest.mark.long
def test_the_exported_program_takes_clips(trained, tmp_path):
    pytest.importorskip("flatbuffers", reason="flatbuffers is not installed; it comes with the extra [interop]")
    config, workdir, _ = trained
    stablehlo.run(workdir, str(tmp_path / "out"), config_class)
    task, data = config.build()
    batch = next(data.eval_batches("test", 5))
    expected = trainer.predict(config, task, data, workdir, batch)["probabilities"]
    logits = loader.load(tmp_path / "out")(batch["image"])
    np.testing.assert_allclose(jax.nn.softmax(logits), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.long
def test_a_video_file_is_understood(trained, tmp_path, capsys):
    config, workdir, _ = trained
    scan = np.zeros((8, 8))
    scan[1:7, 2:6] = 16
    for name, step in (("left", (0, -2)), ("right", (0, 2))):
        frames = moving_digits.move(scan, np.array(step), np.array([4, 4]))
        with av.open(str(tmp_path / f"{name}.avi"), "w") as container:
            stream = container.add_stream("ffv1", rate=8)
            stream.width = stream.height = moving_digits.SIDE
            stream.pix_fmt = "gray"
            for frame in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="gray")))
            container.mux(stream.encode(None))
    main.main(config, workdir, "predict", [str(tmp_path / "left.avi"), str(tmp_path / "right.avi")])
    lines = capsys.readouterr().out.splitlines()
    assert [re.search(r"\.avi: (\w+) ", line)[1] for line in lines] == ["left", "right"]
    assert "right" in (ROOT / workdir / "predictions.jsonl").read_text()
    plots.draw(ROOT / workdir)
    assert (ROOT / workdir / "confusion.png").stat().st_size > 5000
