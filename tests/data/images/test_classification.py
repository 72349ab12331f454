import io

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from research.data import prepare, splits
from research.data.images import classification, transforms
from research.data.images.spec import ImageSpec


@pytest.fixture
def digits(data_dir):
    return classification.load(ImageSpec(name="digits", dir=data_dir))


def test_digits_are_the_scans_in_three_stratified_splits(digits):
    assert digits.counts == {"train": 1293, "validation": 144, "test": 360}
    assert digits.image_shape == (8, 8, 1)
    assert digits.class_names == tuple("0123456789")
    assert digits.num_classes == 10
    scans, labels = load_digits(return_X_y=True)
    known = {(tuple(scan), label) for scan, label in zip(scans.astype(int), labels, strict=True)}
    seen = []
    for split, count in digits.counts.items():
        examples = list(digits.prepared.source(split).__getitem__(i) for i in range(count))
        levels = [np.asarray(Image.open(io.BytesIO(e["image"])), float).ravel() * 16 / 255 for e in examples]
        seen += [(tuple(np.round(level).astype(int)), e["label"]) for level, e in zip(levels, examples, strict=True)]
        share = np.bincount([e["label"] for e in examples]) / count
        np.testing.assert_allclose(share, np.bincount(labels) / len(labels), atol=0.01)
    assert len(seen) == len(set(seen)) == len(scans), "no scan is in two splits"
    assert set(seen) == known


def test_batches(digits):
    batch = next(digits.train_batches(seed=0, batch_size=16))
    kinds = {name: (array.dtype.name, array.shape) for name, array in batch.items()}
    assert kinds == {
        "image": ("uint8", (16, 8, 8, 1)),
        "label": ("int32", (16,)),
        "index": ("int32", (16,)),
        "weight": ("float32", (16,)),
    }
    source = digits.prepared.source("train")
    assert [source[index]["label"] for index in batch["index"]] == batch["label"].tolist()
    last = list(digits.eval_batches("validation", 100))[-1]
    assert last["weight"].sum() == 44
    assert not last["image"][44:].any()
    assert (last["index"][44:] == -1).all()


def test_augmentation_differs_between_epochs_and_is_off_in_evaluation(data_dir):
    data = classification.load(ImageSpec(name="digits", dir=data_dir, rotate=10.0, shift=1.0, scale=0.1))
    batches = data.train_batches(seed=0, batch_size=1293)
    first, second = (
        {i: x for i, x in zip(b["index"], b["image"], strict=True)} for b in (next(batches), next(batches))
    )
    assert sum(np.array_equal(first[index], second[index]) for index in first) < 5
    plain = classification.load(ImageSpec(name="digits", dir=data_dir))
    for left, right in zip(data.eval_batches("test", 90), plain.eval_batches("test", 90), strict=True):
        np.testing.assert_array_equal(left["image"], right["image"])


@pytest.mark.parametrize("workers", [0, 1])
def test_two_consecutive_epochs_hold_an_image_and_its_mirror_image(data_dir, workers):
    settings = {"name": "digits", "dir": data_dir, "flip": True, "alternating_flip": True, "workers": workers}
    stream = classification.load(ImageSpec(**settings)).train_batches(seed=4, batch_size=1293)
    epochs = [next(stream) for _ in range(3)]
    stream.close()
    first, second, third = (epoch["image"][np.argsort(epoch["index"])] for epoch in epochs)
    np.testing.assert_array_equal(second, first[:, :, ::-1])
    np.testing.assert_array_equal(third, first)
    plain = next(classification.load(ImageSpec(name="digits", dir=data_dir)).train_batches(seed=4, batch_size=1293))
    kept = (first == plain["image"][np.argsort(plain["index"])]).all((1, 2, 3))
    assert 0.45 < kept.mean() < 0.55


def test_a_flip_that_is_off_cannot_alternate():
    with pytest.raises(ValueError, match=r"alternating_flip.*config\.data\.flip=true"):
        ImageSpec(name="digits", alternating_flip=True)


def test_worker_processes_change_nothing(data_dir):
    settings = {"name": "digits", "dir": data_dir, "rotate": 10.0, "crop": "pad", "pad": 1, "randaugment_layers": 2}
    here, there = (
        classification.load(ImageSpec(**(settings | {"workers": workers}))).train_batches(
            seed=4, batch_size=32, start=7
        )
        for workers in (0, 1)
    )
    for _ in range(3):
        left, right = next(here), next(there)
        for name in left:
            np.testing.assert_array_equal(left[name], right[name])
    there.close()


def test_kept_images_change_nothing_and_are_decoded_once(data_dir, monkeypatch):
    settings = {"name": "digits", "dir": data_dir, "rotate": 10.0, "crop": "pad", "pad": 1}
    plain, cached = (classification.load(ImageSpec(**settings, cache=cache)) for cache in (False, True))
    streams = [data.train_batches(seed=4, batch_size=1293) for data in (plain, cached)]
    for _ in range(2):  # two epochs, of which the second finds every image kept
        left, right = (next(stream) for stream in streams)
        for name in left:
            np.testing.assert_array_equal(left[name], right[name])
    monkeypatch.setattr(transforms.Image, "open", None)
    next(cached.train_batches(seed=5, batch_size=1293))


def test_evaluation_may_see_larger_images(data_dir):
    settings = {"name": "digits", "dir": data_dir, "image_size": 6, "resize": 8, "crop": "random", "eval_size": 8}
    data, plain = (
        classification.load(ImageSpec(**settings)),
        classification.load(ImageSpec(name="digits", dir=data_dir)),
    )
    assert next(data.train_batches(0, 4))["image"].shape == (4, *data.image_shape) == (4, 6, 6, 1)
    for left, right in zip(data.eval_batches("test", 90), plain.eval_batches("test", 90), strict=True):
        np.testing.assert_array_equal(left["image"], right["image"])


def test_prepared_again_it_is_the_same(digits, tmp_path):
    prepare.prepare("digits", data_dir=str(tmp_path))
    again = classification.load(ImageSpec(name="digits", dir=str(tmp_path)))
    assert again.fingerprint == digits.fingerprint
    assert len(digits.fingerprint) == 16


def test_an_image_file_is_read_as_in_evaluation(digits, tmp_path):
    example = digits.prepared.source("test")[0]
    path = tmp_path / "digit.png"
    path.write_bytes(example["image"])
    np.testing.assert_array_equal(digits.read(str(path)), digits.eval_transform(example)["image"])
    path.write_bytes(example["image"][:50])
    with pytest.raises(ValueError, match=r"digit\.png"):
        digits.read(str(path))
    with pytest.raises(ValueError, match=r"absent\.png"):
        digits.read(str(tmp_path / "absent.png"))


def test_what_is_not_prepared_says_how_to_prepare_it(tmp_path):
    data = classification.load(ImageSpec(name="imagenet2012", dir=str(tmp_path), image_size=224))
    assert data.num_classes == 1000
    assert data.class_names[0] == "n01440764"
    assert data.image_shape == (224, 224, 3)
    command = rf"python -m research.data prepare imagenet2012 --manual_dir=DIR --data_dir={tmp_path}"
    for ask in (lambda: data.counts, lambda: data.fingerprint, lambda: data.train_batches(0, 8)):
        with pytest.raises(ValueError, match=command):
            ask()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "nonsense"}, r"unknown data set 'nonsense'; choose from .*cifar10_jpeg, .*digits"),
        ({"name": ""}, "unknown data set ''"),
        ({"name": "coco"}, "coco.*tensorflow"),
        ({"name": "ag_news_subset"}, "one image and one class label are needed"),
        ({"name": "imagenet2012"}, "image_size must be set"),
        ({"name": "folder:/absent"}, "/absent is not a folder"),
        (
            {"name": "digits", "illumination": "dim"},
            "illumination='dim' is unknown; choose from equalized, none, tan_triggs",
        ),
        ({"name": "digits", "crop": "centre"}, "crop='centre' is unknown; choose from inception, none, pad, random"),
        ({"name": "digits", "resize": 4}, "resize=4 px must be at least image_size=8"),
        ({"name": "digits", "eval_size": 9}, "resize=8 px must be at least eval_size=9"),
        ({"name": "digits", "image_size": -8}, "image_size=-8 must be between 0 and"),
        ({"name": "digits", "workers": -1}, "workers=-1 must be between 0 and 1024"),
        ({"name": "digits", "validation_fraction": 0.9}, "validation_fraction=0.9"),
        ({"name": "digits", "mean": (1.0, 2.0, 3.0)}, "mean=.*3 values; the images have 1"),
    ],
)
def test_a_bad_setting_is_one_line(data_dir, settings, message):
    with pytest.raises(ValueError, match=message) as caught:
        classification.load(ImageSpec(**({"dir": data_dir} | settings)))
    assert "\n" not in str(caught.value)


def test_mean_and_std_are_per_channel(data_dir):
    data = classification.load(ImageSpec(name="imagenet2012", image_size=32, dir=data_dir, mean=(1, 2, 3), std=(9,)))
    assert (data.mean, data.std) == ((1.0, 2.0, 3.0), (9.0, 9.0, 9.0))


@pytest.mark.parametrize(
    ("available", "expected"),
    [
        ({"train": 80, "validation": 9, "test": 9}, ("train", "validation", "test")),
        ({"train": 80, "test": 9}, ("train[:72]", "train[72:80]", "test")),
        ({"train": 80, "validation": 9}, ("train[:72]", "train[72:80]", "validation")),
        ({"train": 80}, ("train[:64]", "train[64:72]", "train[72:80]")),
        ({"train": 3}, ("train[:1]", "train[1:2]", "train[2:3]")),
    ],
)
def test_missing_splits_are_held_out_of_train(available, expected):
    assert tuple(splits.expressions(available, 0.1).values()) == expected


@pytest.mark.parametrize("available", [{"test": 5}, {"train": 2}, {"train": 1, "test": 5}])
def test_invalid_splits_are_refused(available):
    with pytest.raises(ValueError, match="train"):
        splits.expressions(available, 0.1)
