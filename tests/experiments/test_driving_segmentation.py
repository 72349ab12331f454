"""A small model learns coloured shapes; its metrics can be recomputed from saved masks, and predict writes overlays."""

import json

import numpy as np
import pytest
from PIL import Image

from experiments.driving_segmentation import main
from research import config as configs
from research.data import prepare
from research.data.images import files as image_files
from research.report import confusion, plots
from tests.experiments.conftest import ROOT

CONFIG = str(ROOT / "configs/driving_segmentation/camvid_unet.py")
SETTINGS = (
    "train.steps=120", "train.eval_every=60", "train.checkpoint_every=60", "train.ema=0.9", "data.color_jitter=0.0",
    "optimizer.learning_rate=1e-2",
)  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    root = tmp_path_factory.mktemp("scenes")
    prepare.prepare("coloured_shapes", data_dir=str(root))
    config = configs.load(CONFIG, "smoke", (*SETTINGS, f"data.dir={root}"))
    return config, root / "run", main.main(config, str(root / "run"), "train")


@pytest.mark.long
def test_it_learns_and_its_score_is_that_of_its_saved_masks(trained):
    config, workdir, result = trained
    metrics = result["metrics"]
    assert metrics["test/miou"] > 0.6 and metrics["test/pixel_accuracy"] > 0.9
    source, names = config.build()[1].source("test"), ("ground", "disc", "box", "triangle")
    lines = [json.loads(line) for line in (workdir / "predictions.jsonl").read_text().splitlines()]
    assert len(lines) == len(source) == 32
    truth = [image_files.decode_mask(source[line["index"]]["mask"]) for line in lines]
    assert [line["name"] for line in lines] == [source[line["index"]]["name"].decode() for line in lines]
    guess = np.stack([np.asarray(Image.open(workdir / line["mask"])) for line in lines])
    truth = np.stack(truth)
    valid = truth != 255
    for number, name in enumerate(names):
        ours, theirs = (guess == number) & valid, truth == number
        np.testing.assert_allclose(
            metrics[f"test/iou_{name}"], (ours & theirs).sum() / (ours | theirs).sum(), rtol=1e-5
        )
    pixels = np.array([[((truth == row) & (guess == column)).sum() for column in range(4)] for row in range(4)])
    assert confusion.matrix(lines)[0] == list(names)
    np.testing.assert_array_equal(confusion.matrix(lines)[1], pixels)
    plots.draw(workdir)
    assert (workdir / "confusion.png").stat().st_size > 5000
    np.testing.assert_allclose(metrics["test/miou"], np.mean([metrics[f"test/iou_{name}"] for name in names]))


@pytest.mark.long
def test_predict_shows_classes_at_the_size_of_each_image(trained, tmp_path, capsys):
    config, workdir, _ = trained
    big = np.full((96, 128, 3), 120, np.uint8)  # larger than the canvas of evaluation
    big[30:70, 40:90] = (60, 160, 70)  # a box
    small = np.full((40, 40, 3), 120, np.uint8)
    for name, pixels in {"big": big, "small": small}.items():
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # as a telephone that is held upright stores it
    Image.fromarray(big).transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    names = ("big", "small", "turned")
    main.main(config, str(workdir), "predict", [str(tmp_path / f"{name}.png") for name in names])
    assert f"small.png: {workdir / 'predict' / 'small.png'}" in capsys.readouterr().out
    masks = {name: np.asarray(Image.open(workdir / f"predict/{name}_mask.png")) for name in names}
    np.testing.assert_array_equal(masks["turned"], masks["big"])
    assert masks["big"].shape == (96, 128) and masks["small"].shape == (40, 40)
    assert (masks["big"][36:64, 48:82] == 2).mean() > 0.9 and (masks["big"][:20] == 0).mean() > 0.9
    overlay = Image.open(workdir / "predict/big.png")
    assert overlay.width > 512 and overlay.height >= 384, "enlarged, with a legend beside it"


def test_an_image_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "bad.png").write_bytes(b"nothing")
    config = configs.load(CONFIG, "smoke", ["data.dir=/nowhere"])
    with pytest.raises(ValueError, match=r"image '.*bad.png' cannot be read"):
        main.main(config, str(tmp_path), "predict", [str(tmp_path / "bad.png")])


def test_a_vit_is_evaluated_at_the_size_it_sees(tmp_path):
    config = CONFIG.replace("camvid_unet", "camvid_vit")
    with pytest.raises(ValueError, match=r"fixed input size, but config.data.image_size=.* and eval_size"):
        configs.load(config, "smoke", ("data.eval_size=(96,96)", f"data.dir={tmp_path}")).build()
