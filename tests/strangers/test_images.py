"""Folders of images as people have them, through the commands that the README shows."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.running import run

ROOT = Path(__file__).parents[2]
MAIN, RESNET = "experiments.image_classification.main", "configs/image_classification/cifar10_resnet.py"
# A few steps of a small net; a folder of images never leaves a test's own place.
TINY = (
    "--config.model.stage_sizes=(1,1,1)", "--config.model.width=8", "--config.train.steps=2",
    "--config.train.batch_size=8", "--config.train.eval_batch_size=8", "--config.train.eval_every=2",
    "--config.train.checkpoint_every=2", "--config.optimizer.warmup_steps=1",
)  # fmt: skip


@pytest.fixture
def data_dir(tmp_path, monkeypatch):
    """Where the commands of a test prepare their data."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.chdir(ROOT)
    return tmp_path / "data"


def paint(colour, size=(24, 18), border=None, seed=0):
    """An image of one colour with a little noise, `size` is (width, height), and perhaps a border of 2 px."""
    pixels = np.full((size[1], size[0], 3), colour, np.uint8)
    if border:
        pixels[:2], pixels[-2:], pixels[:, :2], pixels[:, -2:] = border, border, border, border
    noise = np.random.default_rng(seed).integers(0, 20, pixels.shape)
    return Image.fromarray((pixels * 0.9 + noise).astype(np.uint8))


def save(image, path, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)


def write_pets(root, splits=("",), count=10):
    """Red cats and green dogs, ten each."""
    for split in splits:
        for name, colour in {"cats": (200, 40, 40), "dogs": (40, 200, 40)}.items():
            for number in range(count):
                save(paint(colour, seed=number + len(split)), root / split / name / f"{number}.png")
    return root


def readme_command(page, words):
    """The words after `python -m` of the one command of a README that holds `words`."""
    text = (ROOT / "experiments" / page / "README.md").read_text()
    blocks = "".join(re.findall(r"^```bash\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)).replace("\\\n", " ")
    (line,) = [line for line in blocks.splitlines() if words in line]
    return shlex.split(line)[2:]


# ---- sizes


@pytest.mark.long
def test_the_command_of_the_readme_sees_the_whole_image(tmp_path, data_dir):
    """Classes that only the border tells apart, so that a crop of evaluation which leaves it out knows nothing."""
    colours = {"blue": (40, 40, 220), "red": (220, 40, 40)}
    for name, border in colours.items():
        for number in range(24):
            save(paint((128, 128, 128), (80, 80), border, number), tmp_path / "framed" / name / f"{number}.png")
    words = readme_command("image_classification", "folder:/path/to/pictures")
    assert "--config.data.image_size=64" in words and not any("resize" in word or "eval_size" in word for word in words)
    words = [word.replace("/path/to/pictures", str(tmp_path / "framed")) for word in words[:-1]]
    more = ("--config.train.steps=60", "--config.train.eval_every=60", "--config.data.validation_fraction=0.25")
    done = run([*words, f"--workdir={tmp_path / 'run'}", *TINY, *more])
    assert done.code == 0, done.err
    assert json.loads((tmp_path / "run/result.json").read_text())["metrics"]["test/accuracy"] == 1.0
    data = json.loads((tmp_path / "run/config.json").read_text())["data"]
    assert (data["image_size"], data["resize"], data["eval_size"]) == (64, 73, 73)


@pytest.mark.parametrize(
    ("config", "overrides", "expected"),
    [
        (f"{RESNET}:cpu", ["data.image_size=64", "data.resize=72"], (64, 72, 72)),
        (f"{RESNET}:cpu", ["data.resize=40"], (28, 40, 40)),
        (f"{RESNET}:cpu", ["data.image_size=0"], (0, 0, 0)),
        (f"{RESNET}:cpu", ["data.image_size=64", "data.resize=80", "data.eval_size=64"], (64, 80, 64)),
        (f"{RESNET}:full", ["data.image_size=64"], (64, 0, 0)),
        ("configs/image_classification/imagenet_resnet50.py:full", ["data.image_size=384"], (384, 439, 0)),
        ("configs/video/fight_vivit.py:full", ["data.image_size=128"], (128, 144, None)),
    ],
)
def test_sizes_keep_the_ratio_of_their_config(config, overrides, expected):
    from research import config as configs

    file, variant = config.split(":")
    loaded = configs.load(file, variant, overrides)
    assert tuple(loaded.data.get(key) for key in ("image_size", "resize", "eval_size")) == expected
    if "image_size" in loaded.model:
        assert loaded.model.image_size == loaded.data.image_size


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (["data.image_size=64", "data.resize=32"], "config.data.resize=32 px must be at least image_size=64"),
        (["data.eval_size=24"], "config.data.eval_size=24 px would show evaluation less than training sees"),
        (["data.image_size=64", "data.eval_size=80"], "config.data.resize=73 px must be at least eval_size=80"),
    ],
)
def test_sizes_that_contradict_are_refused(tmp_path, data_dir, overrides, reason):
    root = write_pets(tmp_path / "pets")
    words = [f"--config.{override}" for override in overrides]
    name = f"--config.data.name=folder:{root}"
    assert reason in run([MAIN, f"--config={RESNET}:cpu", name, *words, f"--workdir={tmp_path / 'run'}"]).error
