"""Folders of images as people have them, through the commands that the README shows."""

import io
import json
import os
import re
import shlex
import shutil
import struct
import zlib
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
    """What `run` wants of the one `tessera` command of a README that holds `words`."""
    text = (ROOT / "experiments" / page / "README.md").read_text()
    blocks = "".join(re.findall(r"^```bash\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)).replace("\\\n", " ")
    (line,) = [line for line in blocks.splitlines() if words in line]
    return ["research.cli.tessera", *shlex.split(line)[1:]]


# ---- sizes


@pytest.fixture(scope="module")
def framed(tmp_path_factory):
    """What the README's command for own images makes of a folder, and its run directory.

    Only the border tells the two classes apart: a crop of evaluation that leaves it out sees equal images.
    """
    place = tmp_path_factory.mktemp("framed")
    for name, border in {"blue": (40, 40, 220), "red": (220, 40, 40)}.items():
        for number in range(12):
            save(paint((128, 128, 128), (80, 80), border), place / "images" / name / f"{number}.png")
    words = readme_command("image_classification", "name=folder:/path/to/images")
    assert "--config.data.image_size=64" in words and not any("resize" in word or "eval_size" in word for word in words)
    words = [word.replace("/path/to/images", str(place / "images")) for word in words[:-1]]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TFDS_DATA_DIR", str(place / "data"))
        patch.chdir(ROOT)
        done = run([*words, f"--workdir={place / 'run'}", *TINY, "--config.data.validation_fraction=0.25"])
        assert done.code == 0, done.err
        yield done, place / "run"


@pytest.mark.long
def test_the_command_of_the_readme_sees_the_whole_image(framed):
    data = json.loads((framed[1] / "config.json").read_text())["data"]
    assert (data["image_size"], data["resize"], data["eval_size"]) == (64, 73, 73)
    lines = [json.loads(line) for line in (framed[1] / "predictions.jsonl").read_text().splitlines()]
    seen = {name: {str(line["probabilities"]) for line in lines if line["class"] == name} for name in ("blue", "red")}
    assert all(seen.values()) and not seen["blue"] & seen["red"]


@pytest.mark.long
def test_each_test_image_has_its_prediction(framed):
    lines = [json.loads(line) for line in (framed[1] / "predictions.jsonl").read_text().splitlines()]
    assert [line["index"] for line in lines] == list(range(6))
    for line in lines:
        assert line["path"].startswith(line["class"] + "/") and line["path"].endswith(".png")
        assert line["predicted"] == max(line["probabilities"], key=line["probabilities"].get)
        assert sum(line["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    right = np.mean([line["class"] == line["predicted"] for line in lines])
    assert json.loads((framed[1] / "result.json").read_text())["metrics"]["test/accuracy"] == pytest.approx(right)
    assert Image.open(framed[1] / "confusion.png").width > 100


@pytest.mark.long
def test_own_data_have_no_foreign_floor_and_no_row(framed, tmp_path):
    done, workdir = framed
    assert "He et al." not in done.out and "chance" not in done.out
    assert re.search(r"^floor +none for folder:/.*^reference +none for folder:/", done.out, re.MULTILINE | re.DOTALL)
    for part in ("configs/image_classification", "experiments/image_classification"):
        shutil.copytree(ROOT / part, tmp_path / part)
    recorded = tmp_path / "experiments/image_classification/results.jsonl"
    content = lambda: {path: path.read_bytes() for path in (recorded, *sorted(tmp_path.rglob("plots/*/*.png")))}
    before = content()
    words = ["research.report", "add", workdir, "--root", tmp_path]
    assert "--own_data records it" in run(words).error
    assert content() == before, "neither the rows nor the plots of other runs"
    assert run([*words, "--own_data"]).code == 0
    row = json.loads(recorded.read_text().splitlines()[-1])
    assert row["floor"] is None and row["reference"] is None


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
    assert tuple(getattr(loaded.data, key, None) for key in ("image_size", "resize", "eval_size")) == expected
    if hasattr(loaded.model, "image_size"):
        assert loaded.model.image_size == loaded.data.image_size


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (["data.image_size=64", "data.resize=32"], "config.data.resize=32 px must be at least image_size=64"),
        (["data.eval_size=24"], "config.data.eval_size=24 px must be at least image_size=28, the size for training"),
        (["data.image_size=64", "data.eval_size=80"], "config.data.resize=73 px must be at least eval_size=80"),
    ],
)
def test_sizes_that_contradict_are_refused(tmp_path, data_dir, overrides, reason):
    root = write_pets(tmp_path / "pets")
    words = [f"--config.{override}" for override in overrides]
    name = f"--config.data.name=folder:{root}"
    assert reason in run([MAIN, f"--config={RESNET}:cpu", name, *words, f"--workdir={tmp_path / 'run'}"]).error


# ---- folders


def prepared(root):
    """What `prepare` says at its end of a folder that it takes."""
    done = run(["research.data", "prepare", f"folder:{root}"])
    assert done.code == 0, done.err
    return done.out.strip()


def refused(root):
    """The line with which `prepare` refuses a folder."""
    return run(["research.data", "prepare", f"folder:{root}"]).error


@pytest.mark.parametrize(
    ("place", "counted"),
    [
        (".ipynb_checkpoints/1-checkpoint.png", "1 hidden (.ipynb_checkpoints/1-checkpoint.png)"),
        ("cats/.ipynb_checkpoints/1.png", "1 hidden (cats/.ipynb_checkpoints/1.png)"),
        ("__MACOSX/cats/1.png", "1 hidden (__MACOSX/cats/1.png)"),
        ("cats/._1.png", "1 hidden (cats/._1.png)"),
        ("cats/Thumbs.db", "1 .db (cats/Thumbs.db)"),
        ("cats/1.HEIC", "1 .heic (cats/1.HEIC)"),
        ("cats/1.eps", "1 .eps (cats/1.eps)"),
        ("cats/README", "1 without ending (cats/README)"),
        ("1.png", "1 outside class folders (1.png)"),
        ("notes/a.txt", "1 .txt (notes/a.txt), 1 empty class folders (notes)"),
    ],
)
def test_what_is_no_image_of_a_class_is_counted(tmp_path, data_dir, place, counted):
    root = write_pets(tmp_path / "pets")
    path = root / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(paint((1, 2, 3)).tobytes())
    said = prepared(root)
    assert said.endswith(f"(train 20, 2 classes: cats 10, dogs 10, left out: {counted})")


def test_links_are_read_once(tmp_path, data_dir):
    root = write_pets(tmp_path / "pets")
    (root / "dogs/again.png").symlink_to(root / "dogs/0.png")
    (root / "dogs/nothing.png").symlink_to(root / "gone.png")
    (root / "dogs/circle").symlink_to(root / "dogs")
    (root / "birds").symlink_to(tmp_path / "birds")
    save(paint((40, 40, 200)), tmp_path / "birds/0.png")
    said = prepared(root)
    assert "train 21, 3 classes: birds 1, cats 10, dogs 10" in said
    assert "1 links to nothing, or no files (dogs/nothing.png)" in said
    assert "1 links to a file that is read (dogs/again.png)" in said


@pytest.mark.parametrize(
    "splits", [("train", "val", "test"), ("Train", "Valid", "Test"), ("TRAINING", "validation", "Testing")]
)
def test_splits_are_known_by_their_usual_names(tmp_path, data_dir, splits):
    said = prepared(write_pets(tmp_path / "pets", splits, 2))
    assert "(train 4, validation 4, test 4, 2 classes: cats 6, dogs 6" in said


def unlike(root, *changes):
    """The pets with further images at `changes`, which may leave out a folder: `-cats`."""
    write_pets(root, count=2)
    for change in changes:
        if change.startswith("-"):
            shutil.rmtree(root / change[1:])
        else:
            save(paint((40, 40, 200)), root / change)
    return root


IN_TRAIN = ("-cats", "-dogs", "train/cats/1.png", "train/dogs/1.png")
REFUSED = {
    "val and valid": ((*IN_TRAIN, "val/cats/1.png", "valid/cats/1.png"), "are both folders for validation; keep one"),
    "train and Train": ((*IN_TRAIN, "Train/cats/2.png"), "are both folders for train; keep one"),
    "train beside classes": (("train/1.png",), "holds the split train beside cats, which holds images too"),
    "no train": (("-cats", "-dogs", "test/cats/1.png", "test/dogs/1.png"), "holds test, but no train images"),
    "no classes in test": ((*IN_TRAIN, "test/1.png"), "holds no test images; expected class/image.jpg or train/class"),
    "a class of test": ((*IN_TRAIN, "test/birds/1.png"), "the class 'birds' has images in test but none in train"),
    "deeper": (("cats/siamese/1.png",), "cats is a class folder with folders in it that hold images"),
    "one level too high": (("-cats", "-dogs", "pets/cats/1.png", "pets/dogs/1.png"), "name folder:"),
    "one class": (("-dogs",), "holds one class, 'cats'; at least two are needed"),
    "flat": (("-cats", "-dogs", "1.png"), "left out: 1 outside class folders (1.png)"),
}


@pytest.mark.parametrize(("changes", "reason"), REFUSED.values(), ids=REFUSED)
def test_a_layout_in_which_images_would_vanish_is_refused(tmp_path, data_dir, changes, reason):
    assert reason in refused(unlike(tmp_path / "pets", *changes))


def test_a_class_of_unread_images_does_not_vanish(tmp_path, data_dir):
    root = write_pets(tmp_path / "pets", count=2)
    (root / "birds").mkdir()
    (root / "birds/IMG_1.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    assert "birds holds no images that can be read, only others such as IMG_1.HEIC; convert .heic" in refused(root)


@pytest.mark.parametrize("name", [b"cats/\xff.png", b"\xe9t\xe9/1.png", b"cats/a\nb.png"])
def test_names_that_are_no_text_are_refused(tmp_path, data_dir, name):
    root = write_pets(tmp_path / "pets", count=2)
    save(paint((1, 2, 3)), Path(os.fsdecode(os.path.join(os.fsencode(root), name))), format="PNG")
    assert "rename it" in refused(root)


# ---- image files


def turned(image):
    """The PNG bytes of an image that a camera held upside down has stored."""
    exif = Image.Exif()
    exif[0x0112] = 3
    buffer = io.BytesIO()
    image.transpose(Image.Transpose.ROTATE_180).save(buffer, "PNG", exif=exif)
    return buffer.getvalue()


def bomb():
    """A PNG that claims 3.6 billion pixels."""
    chunk = lambda kind, content: b"".join(
        (struct.pack(">I", len(content)), kind, content, struct.pack(">I", zlib.crc32(kind + content)))
    )
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 1, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


BAD_IMAGES = {
    "bomb": (bomb(), "has more than the allowed 178,956,970 pixels"),
    "EPS": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n", "it is none of AVIF"),
    "truncated": (turned(paint((9, 9, 9)))[:200], "cannot be decoded"),
    "empty": (b"", "it is none of AVIF"),
}


@pytest.mark.parametrize(("content", "reason"), BAD_IMAGES.values(), ids=BAD_IMAGES)
def test_a_bad_image_is_named_in_one_line(tmp_path, data_dir, content, reason):
    root = write_pets(tmp_path / "pets", count=2)
    (root / "cats/bad.png").write_bytes(content)
    done = run(["research.data", "prepare", f"folder:{root}"])
    assert done.code == 2 and "Traceback" not in done.err
    error = done.err.splitlines()[-1]
    assert error.startswith(f"error: {root}/cats/bad.png ") and reason in error
    done = run(["research.data", "prepare", f"folder:{root}", "--skip_undecodable"])
    assert done.code == 0 and f"1 undecodable left out: {root}/cats/bad.png " in done.out and reason in done.out


@pytest.mark.long
def test_prediction_reads_as_training_does(framed, tmp_path):
    """An image and its copy that was stored upside down are the same; what is no image is one line."""
    upright = paint((128, 128, 128), (80, 80))
    pixels = np.asarray(upright).copy()
    pixels[:40] = (250, 250, 0)
    save(Image.fromarray(pixels), tmp_path / "upright.png")
    (tmp_path / "turned.png").write_bytes(turned(Image.fromarray(pixels)))
    (tmp_path / "eps.png").write_bytes(BAD_IMAGES["EPS"][0])
    words = readme_command("image_classification", "name=folder:/path/to/images")[:-1]
    words = [word.replace("/path/to/images", str(framed[1].parent / "images")) for word in words]
    words += [f"--workdir={framed[1]}", *TINY, "--config.data.validation_fraction=0.25"]
    words[1] = "predict"
    done = run([*words, tmp_path / "upright.png", tmp_path / "turned.png"])
    assert done.code == 0, done.err
    one, other = (line.partition(": ")[2] for line in done.out.splitlines())
    assert one == other
    assert "eps.png' cannot be read: it cannot be decoded" in run([*words, tmp_path / "eps.png"]).error
