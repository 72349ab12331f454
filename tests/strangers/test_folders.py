"""What `prepare` says of folders that hold other things than it reads, of odd names and of read-only folders."""

import shutil
import warnings

import pytest
from PIL import Image

from tests.running import run


def write(root, names):
    """Files of these names: images where they end in .png, else a few bytes."""
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".png"):
            Image.new("RGB", (9, 9), (number, 2, 3)).save(root / name)
        else:
            (root / name).write_bytes(b"hello")
    return root


@pytest.fixture
def prepare(tmp_path):
    return lambda name: run(["research.data", "prepare", name, "--data_dir", tmp_path / "data"])


PETS = [f"{name}/{number}.png" for name in ("cats", "dogs") for number in range(4)]


@pytest.mark.parametrize(("names", "found"), [
    (["a/x.pdf", "b/y.pdf"], "2 .pdf (a/x.pdf)"),
    (["train.zip"], "1 .zip (train.zip)"),
    (["train-images-idx3-ubyte"], "1 without ending (train-images-idx3-ubyte)"),
    ([".a/x.png"], "1 hidden (.a/x.png)"),
    ([], "only nothing"),
], ids=["pdf", "zip", "idx", "hidden", "empty"])  # fmt: skip
def test_nothing_that_can_be_used(tmp_path, prepare, names, found):
    (tmp_path / "own").mkdir()
    error = prepare(f"folder:{write(tmp_path / 'own', names)}").error
    assert found in error
    for kind in ("class/image.jpg", "class/clip.mp4", "masks", "COCO", "pairs.csv", "transcripts.tsv", "train.tsv"):
        assert kind in error


@pytest.mark.parametrize("parts", [("images", "labels"), ("imgs", "masks"), ("JPEGImages", "Annotations")])
def test_images_and_their_masks_are_no_classes(tmp_path, prepare, parts):
    root = write(tmp_path / "own", [f"{part}/{number}.png" for part in parts for number in range(4)])
    assert "are names of images and annotations" in prepare(f"folder:{root}").error


@pytest.mark.parametrize("parts", [("train_set", "test_set"), ("train2017", "val2017"), ("seg_train", "seg_test")])
def test_splits_are_no_classes(tmp_path, prepare, parts):
    root = write(tmp_path / "own", [f"{part}/{number}.png" for part in parts for number in range(4)])
    assert "are names of splits" in prepare(f"folder:{root}").error


@pytest.mark.parametrize("classes", [("images", "cats"), ("labelled", "masked"), ("trains", "cars"), ("oval", "round")])
def test_classes_of_similar_names_are_read(tmp_path, prepare, classes):
    root = write(tmp_path / "own", [f"{name}/{number}.png" for name in classes for number in range(4)])
    done = prepare(f"folder:{root}")
    assert done.code == 0 and "2 classes" in done.out


def test_copies_are_counted(tmp_path, prepare):
    root = write(tmp_path / "own", [f"{split}/{name}" for split in ("train", "test") for name in PETS])
    shutil.copy(root / "train/cats/0.png", root / "train/dogs/copy.png")
    shutil.copy(root / "train/cats/1.png", root / "test/cats/copy.png")
    shutil.copy(root / "train/cats/2.png", root / "test/cats/other.png")
    out = prepare(f"folder:{root}").out
    assert "1 duplicates in one split, all kept (train/dogs/copy.png is train/cats/0.png)" in out
    assert "2 DUPLICATES ACROSS SPLITS, all kept (test/cats/copy.png of test is train/cats/1.png of train)" in out
    assert "train 9, test 10" in out


def test_no_copies_no_words(tmp_path, prepare):
    assert "cop" not in prepare(f"folder:{write(tmp_path / 'own', PETS)}").out.replace(str(tmp_path), "")


@pytest.mark.parametrize(("name", "said"), [
    ("folder:", "has no path"),
    ("folder:" + "x" * 5000, "File name too long"),
    ("folder:a\0b", "null byte"),
    ("folder:~nobody_of_this_name/x", "cannot be opened"),
    ("", "unknown data set ''"),
    ("/usr/share", "for a folder or file, write folder:/usr/share"),
    ("../x", "for a folder or file, write folder:../x"),
])  # fmt: skip
def test_names_that_are_none(prepare, name, said):
    assert said in prepare(name).error


@pytest.mark.parametrize("place", ["/proc/x", "a file"])
def test_data_dir_that_cannot_be_written(tmp_path, place):
    root = write(tmp_path / "own", PETS)
    place = root / PETS[0] if place == "a file" else place
    error = run(["research.data", "prepare", f"folder:{root}", f"--data_dir={place}"]).error
    assert str(place) in error and "--data_dir" in error


def test_a_cut_tiff_is_one_line_whoever_put_filters_back(tmp_path, prepare):
    root = write(tmp_path / "own", PETS)
    Image.effect_noise((50, 50), 90).save(root / "cats/whole.tif", compression="tiff_lzw")
    (root / "cats/cut.tif").write_bytes((root / "cats/whole.tif").read_bytes()[:-30])
    for _ in range(2):
        with warnings.catch_warnings():  # as pytest and TFDS do
            warnings.resetwarnings()
            assert "cut.tif cannot be decoded" in prepare(f"folder:{root}").error


# ---- tables and lists of bytes that are no text


def manual(tmp_path, name, files):
    for file, content in files.items():
        (tmp_path / "manual" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "manual" / file).write_bytes(content)
    return run(
        ["research.data", "prepare", name, f"--manual_dir={tmp_path / 'manual'}", f"--data_dir={tmp_path / 'd'}"]
    )


HEADER, NO_FILES = b"clip,class,label,split,source_group\n", b"PK\x05\x06" + bytes(18)


@pytest.mark.parametrize(("table", "said"), [
    (HEADER + b"\xff,fight,1,train,g\n", "clips.csv, line 2: invalid UTF-8"),
    (HEADER + b"x" * 200_000 + b",fight,1,train,g\n", "clips.csv cannot be read (field larger"),
])  # fmt: skip
def test_table_of_clips(tmp_path, table, said):
    assert said in manual(tmp_path, "fight_surv_video", {"clips.csv": table, "frames_16x96x96.zip": NO_FILES}).error


def test_list_of_videos(tmp_path):
    lists = {f"ucfTrainTestlist/{part}list0{number}.txt": b"\xff" for part in ("train", "test") for number in (1, 2, 3)}
    assert "trainlist01.txt, line 1: invalid UTF-8" in manual(tmp_path, "ucf101_avi/split1", lists).error
