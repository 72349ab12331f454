"""A model trained on random patterns, evaluated on pairs of unseen people."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiments.face_recognition import main
from research import config as configs
from research.data import prepare
from research.data.images.builders import random_patterns
from research.report import figures, plots
from tests.experiments.conftest import ROOT

CONFIG = str(ROOT / "configs/face_recognition/orl_verification.py")
# Patterns of 16 px stand less augmentation than faces do.
SETTINGS = (
    "train.steps=300", "train.eval_every=150", "train.checkpoint_every=150", "train.ema=0.9", "task.groups=('light',)",
    "data.random_erasing=0.0", "data.flip=False", "data.rotate=0.0", "data.shift=1.0", "task.flip_tta=False",
    "model.embed_dropout=0.0", "optimizer.learning_rate=4e-3",
)  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A config, its run directory and its result."""
    root = tmp_path_factory.mktemp("faces")
    prepare.prepare("random_patterns/verification", data_dir=str(root))
    config = configs.load(CONFIG, "smoke", (*SETTINGS, f"data.dir={root}"))
    return config, str(root / "run"), main.main(config, str(root / "run"), "train")


def write(path, person, number):
    Image.fromarray(random_patterns.draw(person, number)[0]).save(path)
    return str(path)


@pytest.mark.long
def test_people_who_were_never_seen_are_told_apart(trained):
    _, workdir, result = trained
    scores = result["metrics"]
    # Of chance 0.5: so small a model does not learn all that moves and dims a pattern.
    assert scores["test/auc"] > 0.8 and scores["test/eer"] < 0.3 and scores["test/pair_accuracy"] > 0.7
    assert "test/accuracy" not in scores and "test/loss" not in scores  # nobody in the test split has a centre
    assert {"test/auc_light_dim", "test/far_light_bright"} <= scores.keys()
    plots.draw(ROOT / workdir)
    assert (ROOT / workdir / "roc.png").stat().st_size > 10_000
    lines = figures.predictions(ROOT / workdir)[1]
    assert {line["same"] for line in lines} == {0, 1} and len(lines) > 900


@pytest.mark.long
def test_evaluation_finds_the_same_scores(trained):
    config, workdir, result = trained
    again = main.main(config, workdir, "evaluate")["metrics"]
    assert again["test/auc"] == pytest.approx(result["metrics"]["test/auc"], abs=1e-6)


@pytest.mark.long
def test_two_images_are_compared(trained, tmp_path, capsys):
    config, workdir, _ = trained
    unseen = range(42, 48)
    verdicts = {True: [], False: []}
    for person in unseen:
        files = [write(tmp_path / f"{person}_{number}.png", person, number) for number in (3, 4)]
        other = write(tmp_path / f"{person}_other.png", 42 + (person - 41) % 6, 5)
        main.main(config, workdir, "predict", [*files, other])
        for line, same in zip(capsys.readouterr().out.splitlines(), (True, False), strict=True):
            verdicts[same].append(": the same person (similarity" in line)
            similarity, threshold = map(float, re.search(r"similarity (\S+), threshold (\S+)\)", line).groups())
            assert verdicts[same][-1] == (similarity >= threshold)
    # What the log says of the threshold, which nothing protects, is not asked.
    (Path(workdir) / "metrics.jsonl").unlink()
    main.main(config, workdir, "predict", [*files, other])
    assert f"threshold {threshold:.3f})" in capsys.readouterr().out
    # The threshold is that of people who were trained on, who are more alike than those unseen.
    assert np.mean(verdicts[True]) > np.mean(verdicts[False])
    strict = configs.load(CONFIG, "smoke", (*config.source.overrides, "task.threshold=1.0"))
    main.main(strict, workdir, "predict", files)
    assert ": two people (similarity" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"at least two files are needed, not 1"):
        main.main(config, workdir, "predict", files[:1])


def test_a_run_without_a_threshold_says_how_to_give_one(tmp_path, monkeypatch):
    class Unevaluated:
        step, validation = 7, {"validation/auc": 0.9}

    monkeypatch.setattr(main.trainer, "Predictor", lambda *arguments: Unevaluated())
    data_dir = str(tmp_path / "data")
    prepare.prepare("random_patterns/verification", data_dir=data_dir)
    config = configs.load(CONFIG, "smoke", (f"data.dir={data_dir}",))
    files = [write(tmp_path / f"{number}.png", 1, number) for number in (3, 4)]
    with pytest.raises(ValueError, match=r"checkpoint 7 .* no threshold of validation pairs; .*task.threshold=0.5"):
        main.main(config, str(tmp_path), "predict", files)
