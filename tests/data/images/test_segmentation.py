"""Folders of images and masks, their bad entries, and what a batch of them holds."""

import dataclasses
import io
import zipfile

import numpy as np
import pytest
from PIL import Image

from research.data import prepare
from research.data.images import segmentation
from research.data.images.builders import camvid, mask_folder
from tests import samples
from tests.data.conftest import encoded_image


def png(pixels, mode=None):
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(pixels, np.uint8), mode).save(buffer, format="PNG")
    return buffer.getvalue()


def write_pairs(root, split="", count=10, size=(12, 16), classes="ground\ncar\t#ff0000\n"):
    """Pairs whose masks hold classes 0 and 1 and void; `size` is (height, width)."""
    for part in ("images", "masks"):
        (root / split / part).mkdir(parents=True)
    for number in range(count):
        mask = np.random.default_rng(number).choice([0, 1, 255], size)
        (root / split / f"images/{number}.jpg").write_bytes(encoded_image(number, size[::-1]))
        (root / split / f"masks/{number}.png").write_bytes(png(mask))
    (root / "classes.txt").write_text(classes)
    return root


def load_data(**config):
    return samples.prepared(segmentation.load(segmentation.SegmentationDataSpec(**config)))


@pytest.fixture
def load(tmp_path):
    return lambda root, **config: load_data(name=f"folder:{root}", dir=str(tmp_path / "data"), **config)


def test_a_folder_is_a_data_set(tmp_path, load):
    data = load(write_pairs(tmp_path / "own"))
    assert (data.class_names, data.colours) == (("ground", "car"), ("", "#ff0000"))
    assert data.counts == {"train": 8, "validation": 1, "test": 1}
    assert data.image_shape == (12, 16, 3)
    batch = next(data.eval_batches("test", 2))
    number = int(data.reference("test", 0)["name"].removeprefix("images/").removesuffix(".jpg"))
    mask = np.random.default_rng(number).choice([0, 1, 255], (12, 16))
    np.testing.assert_array_equal(batch["mask"][0], mask)
    np.testing.assert_array_equal(batch["weight"], [1, 0])


def test_folders_of_splits_with_images_of_several_sizes(tmp_path, load):
    root = write_pairs(tmp_path / "own", "train")
    write_pairs(root, "val", count=2, size=(20, 10))
    write_pairs(root, "test", count=3, size=(10, 30))
    data = load(root, image_size=(8, 8))
    assert data.counts == {"train": 10, "validation": 2, "test": 3}
    assert data.eval_transform.size == (20, 30), "room for the highest and the widest"
    batch = next(data.eval_batches("test", 3))
    assert (batch["mask"][:, 10:] == 255).all() and set(np.unique(batch["mask"][:, :10])) == {0, 1, 255}
    assert next(data.train_batches(0, 4))["mask"].shape == (4, 8, 8)
    with pytest.raises(
        ValueError, match=r"eval_size=\(12, 16\) is smaller than the largest .*, 20 px high and 30 px wide"
    ):
        load(root, eval_size=(12, 16))
    with pytest.raises(ValueError, match=r"is 20 px high and 10 px wide, more than config.data.eval_size=\(12, 16\)"):
        dataclasses.replace(data.eval_transform, size=(12, 16))(data.source("validation")[0])


def test_batches_depend_on_seed_and_step_alone(tmp_path, load):
    augmentation = {"scale": (0.5, 2.0), "flip": True, "color_jitter": 0.4}
    data = load(write_pairs(tmp_path / "own"), **augmentation)
    batches, later = data.train_batches(3, 4), data.train_batches(3, 4, start=2)
    taken = [next(batches) for _ in range(4)]
    for key in ("image", "mask", "index"):
        np.testing.assert_array_equal(next(data.train_batches(3, 4, start=2))[key], taken[2][key])
    next(later)
    np.testing.assert_array_equal(next(later)["image"], taken[3]["image"])
    assert not np.array_equal(next(data.train_batches(4, 4))["image"], taken[0]["image"])


def break_mask(root, content):
    (root / "masks/3.png").write_bytes(content)


BAD_MASKS = {
    "another size": (png(np.zeros((12, 17))), "3.jpg is 16 x 12 px, but its mask .*masks/3.png is 17 x 12 px"),
    "a class too many": (
        png(np.full((12, 16), 2)),
        "masks/3.png, which holds the class index 2; the 2 classes are 0 to 1",
    ),
    "colours": (encoded_image(0, (16, 12)), "masks/3.png, which has the channels RGB; one channel"),
    "broken": (png(np.zeros((12, 16)))[:40], r"masks/3.png, which cannot be decoded \("),
}


@pytest.mark.parametrize(("content", "message"), BAD_MASKS.values(), ids=BAD_MASKS)
def test_a_bad_mask_is_named(tmp_path, load, content, message):
    root = write_pairs(tmp_path / "own")
    break_mask(root, content)
    with pytest.raises(ValueError, match=f"{message}.*--skip_undecodable"):
        load(root)
    message = prepare.prepare(f"folder:{root}", data_dir=str(tmp_path / "data"), skip_undecodable=True)
    assert "1 undecodable left out" in message and "images/3.jpg" in message


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("masks/3.png", "images/3.jpg is an image without mask .*masks/3"),
        ("images/3.jpg", "masks/3.png is a mask without image .*images/3"),
        ("classes.txt", "classes.txt is missing; it names class 0, 1"),
    ],
)
def test_what_is_missing_is_named(tmp_path, load, file, message):
    root = write_pairs(tmp_path / "own")
    (root / file).unlink()
    with pytest.raises(ValueError, match=message):
        load(root)


@pytest.mark.parametrize("classes", ["a\n\nb\n", "a\na\n", "a\nb\tred\n", "a\n"])
def test_bad_classes_are_refused(tmp_path, load, classes):
    with pytest.raises(ValueError, match=r"classes.txt(, line \d is| lists 1 )"):
        load(write_pairs(tmp_path / "own", classes=classes))


def test_an_indexed_mask_holds_its_numbers_not_its_colours(tmp_path, load):
    root = write_pairs(tmp_path / "own")
    for file in (root / "masks").iterdir():
        indexed = Image.open(file).convert("L")
        indexed = Image.frombytes("P", indexed.size, indexed.tobytes())
        indexed.putpalette([7, 8, 9] * 256)
        indexed.save(file)
    assert set(np.unique(next(load(root).eval_batches("train", 8))["mask"])) == {0, 1, 255}


def test_cityscapes_is_such_a_folder(tmp_path, load):
    root = tmp_path / "cityscapes"
    for split, count in {"train": 10, "val": 2}.items():
        for number in range(count):
            for folder, name, encoded in (
                ("leftImg8bit", "leftImg8bit", encoded_image(number, (16, 8), "PNG")),
                # Train's masks hold labelIds: road, car, and a number that is no class of the benchmark.
                *([("gtFine", "gtFine_labelIds", png(np.tile([7, 26, 4, 0], (8, 4))))] if split == "train" else []),
                *([("gtFine", "gtFine_labelTrainIds", png(np.full((8, 16), 18)))] if split == "val" else []),
            ):
                place = root / folder / split / "ulm"
                place.mkdir(parents=True, exist_ok=True)
                (place / f"ulm_{number}_{name}.png").write_bytes(encoded)
    data = load(root)
    assert data.num_classes == 19 and data.counts == {"train": 9, "validation": 1, "test": 2}
    np.testing.assert_array_equal(next(data.eval_batches("train", 1))["mask"][0, 0, :4], [0, 13, 255, 255])
    assert (next(data.eval_batches("test", 1))["mask"] == 18).all()
    assert [mask_folder.CITYSCAPES[name][0] for name in ("road", "bicycle")] == [7, 33]


def test_camvid_from_its_archive(tmp_path):
    with zipfile.ZipFile(tmp_path / "camvid_240x180.zip", "w") as archive:
        drives = {
            "train": ("0001TP_0", "0016E5_1", "0006R0_2"),
            "val": ("0016E5_3",),
            "test": ("Seq05VD_4", "0001TP_5"),
        }
        for split, names in drives.items():
            pairs = [(f"{split}/{name}.jpg", f"{split}annot/{name}.png") for name in names]
            archive.writestr(f"{split}.txt", "".join(f"{a} {b}\n" for a, b in pairs))
            for number, (image, mask) in enumerate(pairs):
                archive.writestr(image, encoded_image(number, (240, 180)))
                archive.writestr(mask, png(np.tile(np.arange(12).repeat(15)[:, None], 240)))
    message = prepare.prepare("camvid", manual_dir=str(tmp_path), data_dir=str(tmp_path / "data"))
    assert "train 3, validation 1, test 2" in message and message.count("9.1%") == 11, "shares without void"
    data = load_data(name="camvid", dir=str(tmp_path / "data"))
    assert data.class_names == tuple(camvid.CLASSES)
    assert data.reference("validation", 0)["name"] == "train/0006R0_2.jpg", "a drive of its own"
    mask = next(data.eval_batches("test", 2))["mask"]
    assert mask.shape == (2, 180, 240) and set(np.unique(mask)) == {*range(11), 255}


def test_bad_settings_are_refused(tmp_path, load):
    root = write_pairs(tmp_path / "own")
    for setting, message in (
        ({"image_size": (0, 8)}, r"image_size=\(0, 8\) must be a height and a width"),
        ({"scale": (2.0, 1.0)}, r"scale=\(2.0, 1.0\) must be two factors above 0"),
        ({"color_jitter": 1.5}, "color_jitter=1.5 must be between 0 and 1"),
    ):
        with pytest.raises(ValueError, match=message):
            load(root, **setting)
    with pytest.raises(ValueError, match=r"config.data.name='digits' has no masks; choose camvid"):
        load_data(name="digits")
