import os

import numpy as np
import pytest

from research.data import prepare
from research.data.images import classification
from research.data.images.spec import ImageSpec
from tests import samples
from tests.data.conftest import encoded_image


def write_folder(root, splits=("",), per_class=20):
    for split in splits:
        for label, name in enumerate(("cat", "a dog")):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(per_class):
                suffix, file_format = ("JPG", "JPEG") if number % 2 else ("png", "PNG")
                encoded = encoded_image([label, number, len(split)], (12 + number % 5, 10), file_format)
                (folder / f"{number}.{suffix}").write_bytes(encoded)
    (root / "notes.txt").write_text("not an image")
    return root


@pytest.fixture
def load(tmp_path):
    """Loads the folder of a path and prepares it."""
    settings = {"dir": str(tmp_path / "data"), "image_size": 8}
    return lambda root: samples.prepared(classification.load(ImageSpec(name=f"folder:{root}", **settings)))


def test_a_folder_of_classes_is_a_data_set(tmp_path, load):
    data = load(write_folder(tmp_path / "pets"))
    assert data.class_names == ("a dog", "cat")
    assert data.counts == {"train": 32, "validation": 4, "test": 4}
    batch = next(data.train_batches(0, 8))
    assert batch["image"].shape == (8, 8, 8, 3)
    seen = [data.prepared.source(split)[i]["image"] for split, n in data.counts.items() for i in range(n)]
    assert len(set(seen)) == 40, "every image is in one split"


@pytest.mark.parametrize(
    ("splits", "counts"),
    [
        (("train", "val", "test"), {"train": 40, "validation": 40, "test": 40}),
        (("train", "valid", "test"), {"train": 40, "validation": 40, "test": 40}),
        (("train", "validation"), {"train": 36, "validation": 4, "test": 40}),
        (("train", "test"), {"train": 36, "validation": 4, "test": 40}),
    ],
)
def test_a_folder_of_splits(tmp_path, load, splits, counts):
    assert load(write_folder(tmp_path / "pets", splits)).counts == counts


def test_it_is_prepared_once_and_again_when_it_changed(tmp_path, load, capsys):
    root = write_folder(tmp_path / "pets")
    first = load(root)
    assert ": prepared in" in capsys.readouterr().err
    again = load(root)
    assert ": prepared in" not in capsys.readouterr().err
    assert again.fingerprint == first.fingerprint
    (root / "cat/0.png").write_bytes(encoded_image(77, (9, 9), "PNG"))
    assert load(root).fingerprint != first.fingerprint


def test_moved_and_touched_it_is_the_same_data(tmp_path, load):
    root = write_folder(tmp_path / "pets")
    first = load(root)
    root.rename(tmp_path / "moved")
    os.utime(tmp_path / "moved/cat/0.png", (1, 1))
    moved = load(tmp_path / "moved")
    assert moved.fingerprint == first.fingerprint
    left, right = next(first.train_batches(0, 8)), next(moved.train_batches(0, 8))
    np.testing.assert_array_equal(left["image"], right["image"])


def test_a_broken_image_is_named_and_left_out_only_when_asked(tmp_path, load):
    root = write_folder(tmp_path / "pets")
    (root / "cat/3.JPG").write_bytes(encoded_image(1)[:300])
    with pytest.raises(ValueError, match=f"{root}/cat/3.JPG cannot be decoded .*--skip_undecodable"):
        load(root)
    message = prepare.prepare(f"folder:{root}", data_dir=str(tmp_path / "data"), skip_undecodable=True)
    assert f"train 39, 1 undecodable left out: {root}/cat/3.JPG" in message
    assert sum(load(root).counts.values()) == 39


def test_a_folder_without_images(tmp_path, load):
    (tmp_path / "empty/cat").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"only 1 folders \(cat\); it can hold class/image\.jpg"):
        load(tmp_path / "empty")
