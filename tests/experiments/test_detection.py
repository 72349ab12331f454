"""A small detector learns coloured shapes; its mAP can be recomputed from saved boxes, and predict draws boxes."""

import importlib.util
import json

import jax
import numpy as np
import pytest
from PIL import Image

from experiments.detection import main
from research import config as configs
from research.cli.experiments import config_class
from research.data import prepare
from research.data.images.builders import shapes
from research.interop import checkpoints, exports, loading, stablehlo
from research.models import resnet
from research.report import plots
from tests.experiments.conftest import ROOT

CONFIG = str(ROOT / "configs/detection/bccd_fcos.py")
SETTINGS = (
    "train.steps=240", "train.eval_every=120", "train.checkpoint_every=120", "train.ema=0.9", "data.color_jitter=0.0",
    "optimizer.learning_rate=1e-2", "model.width=12", "model.pyramid_channels=16", "model.stage_sizes=(1,1,1)",
    "data.mosaic=0.2", "data.vertical_flip=False",
)  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    root = tmp_path_factory.mktemp("boxes")
    prepare.prepare("boxed_shapes", data_dir=str(root))
    config = configs.load(CONFIG, "smoke", (*SETTINGS, f"data.dir={root}"))
    return config, root / "run", main.main(config, str(root / "run"), "train")


def overlap(one, other):
    (a, b, c, d), (e, f, g, h) = one, other
    shared = max(0, min(c, g) - max(a, e)) * max(0, min(d, h) - max(b, f))
    return shared / ((c - a) * (d - b) + (g - e) * (h - f) - shared)


def average_precision(truth, found):
    """AP at IoU .5 of one class: (image, box) of the objects, (score, image, box) of what was found."""
    taken, hits = set(), []
    for _, image, box in sorted(found, key=lambda entry: -entry[0]):
        near = [(overlap(box, other), number) for number, (where, other) in enumerate(truth) if where == image]
        near = [pair for pair in near if pair[1] not in taken and pair[0] >= 0.5]
        hits.append(bool(near))
        if near:
            taken.add(max(near)[1])
    hits = np.array(hits, bool)
    recall, precision = hits.cumsum() / len(truth), hits.cumsum() / np.arange(1, len(hits) + 1)
    return np.mean([precision[recall >= each].max(initial=0) for each in np.linspace(0, 1, 101)])


@pytest.mark.long
def test_it_learns_and_its_score_is_that_of_its_saved_boxes(trained):
    config, workdir, result = trained
    metrics = result["metrics"]
    assert metrics["test/map50"] > 0.5, "images that it has not seen"
    data = config.build()[1]
    lines = [json.loads(line) for line in (workdir / "predictions.jsonl").read_text().splitlines()]
    assert len(lines) == 32 and all(line["size"] == [shapes.HEIGHT, shapes.WIDTH] for line in lines)
    for label, name in enumerate(data.class_names):
        truth, found = [], []
        for line in lines:
            reference = data.reference("test", line["index"])
            kept = reference["boxes"][reference["labels"] == label]
            truth += [(line["index"], box) for box in kept.tolist()]
            entries = zip(line["scores"], line["labels"], line["boxes"], strict=True)
            found += [(score, line["index"], box) for score, said, box in entries if said == name]
        assert metrics[f"test/ap50_{name}"] == pytest.approx(average_precision(truth, found), abs=0.01)
    plots.draw(workdir)
    assert (workdir / "precision_recall.png").stat().st_size > 5000
    each = [metrics[f"test/ap50_{name}"] for name in data.class_names]
    assert metrics["test/map50"] == pytest.approx(np.mean(each), abs=1e-6)


@pytest.mark.long
def test_other_runs_begin_with_its_weights_or_those_of_its_backbone(trained, tmp_path):
    config, workdir, _ = trained
    task, _ = config.build()
    leaves = loading.leaves_of(jax.eval_shape(task.init, jax.random.key(0)))
    checkpoint = checkpoints.open_checkpoint(str(workdir), config_class)
    again = loading.plan(checkpoint, task.model, leaves)
    assert set(again.rows) == set(leaves) and not again.left_over
    others = loading.plan(checkpoint, task.model.clone(num_classes=7), leaves | {
        path: jax.ShapeDtypeStruct((*leaf.shape[:-1], 7), leaf.dtype)
        for path, leaf in leaves.items() if "class_conv" in path
    })  # fmt: skip
    assert set(others.fresh) == {"head/class_conv/kernel", "head/class_conv/bias"}

    classifier = resnet.ResNet.of(5, stage_sizes=(1, 1, 1), block="basic", width=12, stem="half")
    variables = jax.eval_shape(lambda: classifier.init(jax.random.key(0), np.zeros((1, 16, 16, 3), np.float32)))
    plan = loading.plan(checkpoint, classifier, loading.leaves_of(variables))
    assert set(plan.fresh) == {"head/kernel", "head/bias"}
    loaded = loading.leaves_of(plan.variables(variables))
    for path in plan.rows:
        np.testing.assert_array_equal(loaded[path], checkpoint.tensors.read(f"backbone/{path}"))
    with pytest.raises(ValueError, match=r"no family .* for a Detector"):
        exports.run(str(workdir), str(tmp_path / "exported"), config_class)
    if importlib.util.find_spec("flatbuffers"):
        with pytest.raises(ValueError, match="a Detector cannot be exported; only classifiers and models of text and"):
            stablehlo.run(str(workdir), str(tmp_path / "exported"), config_class)
    assert not (tmp_path / "exported").exists()


@pytest.mark.long
def test_predict_draws_boxes_and_writes_them_in_px_of_the_image(trained, tmp_path, capsys):
    config, workdir, _ = trained
    pixels = np.full((96, 128, 3), 120, np.uint8)
    pixels[30:66, 40:76] = shapes.SHAPES["box"]
    Image.fromarray(pixels).save(tmp_path / "one.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # as a telephone that is held upright stores it
    Image.fromarray(pixels).transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    main.main(config, str(workdir), "predict", [str(tmp_path / f"{name}.png") for name in ("one", "turned")])
    content, turned = (json.loads((workdir / f"predict/{name}.json").read_text()) for name in ("one", "turned"))
    np.testing.assert_allclose(turned["boxes"], content["boxes"], atol=0.01)
    assert Image.open(workdir / "predict/turned.png").getexif().get(0x0112, 1) == 1
    assert f"boxes in {workdir / 'predict' / 'one.png'}" in capsys.readouterr().out
    assert content["labels"][0] == "box" and content["scores"][0] >= config.task.display_threshold
    assert overlap(content["boxes"][0], (40, 30, 76, 66)) > 0.5
    drawn = np.asarray(Image.open(workdir / "predict/one.png").convert("RGB"))
    assert drawn.shape == (384, 512, 3)
    plain = np.asarray(Image.fromarray(pixels).resize((512, 384)))
    assert 0.002 < (np.abs(drawn.astype(int) - plain).max(-1) > 60).mean() < 0.2, "lines and words, no more"


def test_an_image_that_cannot_be_read_is_named(tmp_path):
    config = configs.load(CONFIG, "smoke", ["data.dir=/nowhere"])
    with pytest.raises(ValueError, match=r"image '.*bad.png' cannot be read"):
        main.main(config, str(tmp_path), "predict", [str(tmp_path / "bad.png")])
