import io
import signal
import subprocess
import sys
import tarfile
import time

import numpy as np
import pytest
import scipy.io
from tensorflow_datasets.proto import tf_example_pb2

from research.data import prepare, records, sources
from research.data.images import classification
from research.data.images.spec import ImageSpec
from tests.data.conftest import ROOT, encoded_image, run_python, write_cifar10


def cifar10(data_dir):
    return classification.load(ImageSpec(name="cifar10_jpeg", dir=str(data_dir)))


def test_cifar10_keeps_the_bytes_and_holds_out_the_last_tenth(tmp_path):
    message = prepare.prepare("cifar10_jpeg", manual_dir=str(write_cifar10(tmp_path / "a")), data_dir=str(tmp_path))
    assert message == f"cifar10_jpeg: prepared in {tmp_path}/cifar10_jpeg/1.0.0 (train 20, validation 10, test 30)"
    data = cifar10(tmp_path)
    assert data.counts == {"train": 20, "validation": 10, "test": 30}
    stored = {
        example["image"]: example["label"] for example in map(data.prepared.source("validation").__getitem__, range(10))
    }
    assert stored == {encoded_image([label, 4500, True]): label for label in range(10)}


def test_the_fingerprint_follows_the_content_not_the_place(tmp_path):
    fingerprints = []
    for name, replaced in [("a", {}), ("b", {}), ("c", {"train/cat/0001.jpg": encoded_image(99)})]:
        archives = write_cifar10(tmp_path / name, replaced)
        prepare.prepare("cifar10_jpeg", manual_dir=str(archives), data_dir=str(archives))
        fingerprints.append(cifar10(archives).fingerprint)
    assert fingerprints[0] == fingerprints[1] != fingerprints[2]


def test_the_order_in_which_a_process_writes_fields_is_no_content(monkeypatch):
    """Protocol buffers write a map in an order of their own, which differs from process to process."""

    def field(name, number):
        example = tf_example_pb2.Example()
        example.features.feature[name].int64_list.value.append(number)
        return example.SerializeToString()

    one, two = field("label", 1), field("take", 2)
    source = object.__new__(records.Records)
    written = [one + two, two + one, one + field("take", 3)]  # messages one after the other are merged
    monkeypatch.setattr(records.Records, "raw", lambda self, index: written[index])
    assert source.canonical(0) == source.canonical(1) != source.canonical(2)


def test_prepare_again_does_nothing(tmp_path):
    archives = str(write_cifar10(tmp_path / "a"))
    prepare.prepare("cifar10_jpeg", manual_dir=archives, data_dir=str(tmp_path))
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    assert "already prepared" in prepare.prepare("cifar10_jpeg", data_dir=str(tmp_path))
    assert files == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}


@pytest.mark.parametrize("archive", ["train.zip", "test.zip"])
def test_an_absent_or_damaged_archive_is_named(tmp_path, archive):
    folder = write_cifar10(tmp_path / "a")
    path = folder / archive
    whole = path.read_bytes()
    attempt = lambda: prepare.prepare("cifar10_jpeg", manual_dir=str(folder), data_dir=str(tmp_path))
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=f"{path} is truncated or damaged"):
        attempt()
    middle = len(whole) // 3
    path.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
    with pytest.raises(ValueError, match=f"{path} is truncated or damaged.*CRC"):
        attempt()
    path.unlink()
    with pytest.raises(ValueError, match=f"{path} does not exist"):
        attempt()
    with pytest.raises(ValueError, match=r"cifar10_jpeg.*--manual_dir=DIR.*train\.zip and test\.zip"):
        prepare.prepare("cifar10_jpeg", data_dir=str(tmp_path))
    with pytest.raises(ValueError, match="is not prepared"):
        _ = cifar10(tmp_path).counts


def test_an_image_that_cannot_be_decoded_is_named_and_skipped_only_when_asked(tmp_path):
    broken = {"train/cat/0001.jpg": encoded_image(5)[:400], "test/dog/0000.jpg": b"no image"}
    archives = write_cifar10(tmp_path / "a", broken)
    with pytest.raises(ValueError, match=r"a/train\.zip/train/cat/0001\.jpg cannot be decoded.*--skip_undecodable"):
        prepare.prepare("cifar10_jpeg", manual_dir=str(archives), data_dir=str(tmp_path))
    message = prepare.prepare("cifar10_jpeg", manual_dir=str(archives), data_dir=str(tmp_path), skip_undecodable=True)
    assert "train 19, validation 10, test 29, 2 undecodable left out: " in message
    assert "train.zip/train/cat/0001.jpg" in message
    assert "test.zip/test/dog/0000.jpg" in message
    assert cifar10(tmp_path).counts == {"train": 19, "validation": 10, "test": 29}
    assert sum(len(batch["label"]) for batch in cifar10(tmp_path).eval_batches("test", 29)) == 29


def test_killed_at_any_moment_and_run_again(tmp_path):
    archives = write_cifar10(tmp_path / "a", per_class=300)
    data_dir = tmp_path / "data"
    command = [sys.executable, "-m", "research.data", "prepare", "cifar10_jpeg"]
    command += [f"--manual_dir={archives}", f"--data_dir={data_dir}"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not list(data_dir.glob("cifar10_jpeg/incomplete.*/*")):
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it ended before it could be killed"
    assert list(data_dir.glob("cifar10_jpeg/incomplete.*"))
    with pytest.raises(ValueError, match="is not prepared"):
        _ = cifar10(data_dir).counts
    message = prepare.prepare("cifar10_jpeg", manual_dir=str(archives), data_dir=str(data_dir))
    assert "train 3,000, validation 10, test 3,010" in message
    assert not list(data_dir.glob("cifar10_jpeg/incomplete.*"))


def test_the_command_line(tmp_path, monkeypatch):
    monkeypatch.setenv("TESSERA_PROGRESS_S", "0")  # a line at every step, where no terminal is
    archives = write_cifar10(tmp_path / "a")
    command = ["-m", "research.data", "prepare", "cifar10_jpeg", f"--data_dir={tmp_path}"]
    failed = run_python(*command, f"--manual_dir={tmp_path}")
    assert (failed.returncode, failed.stdout) == (2, "")
    assert failed.stderr == f"error: {tmp_path}/train.zip does not exist\n"
    done = run_python(*command, f"--manual_dir={archives}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("cifar10_jpeg: prepared in ")
    assert "cifar10_jpeg train: 20 images" in done.stderr, "progress"
    assert "\r" not in done.stderr


def test_tensorflow_is_never_imported(tmp_path):
    script = f"""
import sys
from research.data import prepare
from research.data.images import classification
from research.data.images.spec import ImageSpec
prepare.prepare("digits", data_dir={str(tmp_path)!r})
data = classification.load(ImageSpec(name="digits", dir={str(tmp_path)!r}))
next(data.train_batches(0, 8)), next(data.eval_batches("test", 8)), data.fingerprint
print([name for name in sys.modules if name.partition(".")[0] == "tensorflow"])
"""
    done = run_python("-c", script)
    assert done.stdout == "[]\n", done.stderr


SYNSETS = ("n01440764", "n01443537", "n02085620")


def add(archive, name, content):
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def tar_of(members):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in members.items():
            add(archive, name, content)
    return buffer.getvalue()


def write_imagenet(folder, synsets=SYNSETS, per_class=102):
    """Small archives made like the original ones. In the devkit the numbers of the classes are not in synset order."""
    folder.mkdir()
    size = lambda seed: (20 + seed % 7, 16 + seed % 5)
    image = lambda seed: encoded_image(seed, size(seed))
    inner = {
        f"{synset}.tar": tar_of({f"{synset}_{i}.JPEG": image(1000 * label + i) for i in range(per_class)})
        for label, synset in enumerate(synsets)
    }
    (folder / "ILSVRC2012_img_train.tar").write_bytes(tar_of(inner))
    test = {f"ILSVRC2012_val_{number:08}.JPEG": image(7000 + number) for number in range(1, 7)}
    (folder / "ILSVRC2012_img_val.tar").write_bytes(tar_of(test))
    kinds = [("ILSVRC2012_ID", "f8"), ("WNID", "O"), ("words", "O"), ("gloss", "O"), ("num_children", "f8")]
    entries = [(3 - i, synset, "a word", "a gloss", 0) for i, synset in enumerate(synsets)]
    entries.append((4, "n00001740", "entity", "a parent of others", 3))
    meta = io.BytesIO()
    scipy.io.savemat(meta, {"synsets": np.array(entries, dtype=kinds)[:, None]})
    truth = "".join(f"{number}\n" for number in (3, 3, 2, 2, 1, 1))
    with tarfile.open(folder / "ILSVRC2012_devkit_t12.tar.gz", "w:gz") as devkit:
        add(devkit, "ILSVRC2012_devkit_t12/readme.txt", b"...")
        add(devkit, "ILSVRC2012_devkit_t12/data/meta.mat", meta.getvalue())
        add(devkit, "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt", truth.encode())
    return folder


def test_imagenet_from_archives_like_the_original_ones(tmp_path):
    archives = write_imagenet(tmp_path / "a")
    prepare.prepare("imagenet2012", manual_dir=str(archives), data_dir=str(tmp_path))
    data = classification.load(ImageSpec(name="imagenet2012", dir=str(tmp_path), image_size=16, crop="inception"))
    assert data.counts == {"train": 300, "validation": 6, "test": 6}
    labels = [data.class_names.index(synset) for synset in SYNSETS]
    source = data.prepared.source("test")
    by_bytes = {source[i]["image"]: source[i]["label"] for i in range(6)}
    for number, label in zip(range(1, 7), np.repeat(labels, 2), strict=True):
        encoded = encoded_image(7000 + number, (20 + (7000 + number) % 7, 16 + (7000 + number) % 5))
        assert by_bytes[encoded] == label
    counted = np.bincount([data.prepared.source("train")[i]["label"] for i in range(300)], minlength=1000)
    assert counted[labels].tolist() == [100, 100, 100]
    batch = next(data.train_batches(0, 32))
    assert batch["image"].shape == (32, 16, 16, 3)


@pytest.mark.parametrize(
    "archive", ["ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar", "ILSVRC2012_devkit_t12.tar.gz"]
)
def test_a_damaged_imagenet_archive_is_named(tmp_path, archive):
    folder = write_imagenet(tmp_path / "a", per_class=3)
    path = folder / archive
    whole = path.read_bytes()
    attempt = lambda: prepare.prepare("imagenet2012", manual_dir=str(folder), data_dir=str(tmp_path))
    for kept in (len(whole) // 2, 0):
        path.write_bytes(whole[:kept])
        with pytest.raises(ValueError, match=f"{path} is truncated or damaged"):
            attempt()
    if archive.endswith(".tar"):
        with tarfile.open(fileobj=io.BytesIO(whole)) as members:
            second = members.getmembers()[1].offset
        path.write_bytes(whole[:second])
        with pytest.raises(ValueError, match=f"{path} is truncated or damaged"):
            attempt()
        path.write_bytes(whole[:second] + b"x" + whole[second + 1 :])
        with pytest.raises(ValueError, match=f"{path} is truncated or damaged .neither header nor end"):
            attempt()
    path.unlink()
    with pytest.raises(ValueError, match=f"{path} does not exist"):
        attempt()


def test_an_unknown_imagenet_class_is_named(tmp_path):
    archives = write_imagenet(tmp_path / "a", synsets=("n01440764", "n99999999", "n02085620"), per_class=2)
    with pytest.raises(ValueError, match=r"n99999999\.tar.*not among the 1000 classes"):
        prepare.prepare("imagenet2012", manual_dir=str(archives), data_dir=str(tmp_path))


@pytest.mark.long
def test_the_real_cifar10(shared_cifar10, tmp_path):
    prepare.prepare("cifar10_jpeg", manual_dir=str(shared_cifar10), data_dir=str(tmp_path))
    data = cifar10(tmp_path)
    assert data.counts == {"train": 45_000, "validation": 5_000, "test": 10_000}
    labels = np.concatenate([batch["label"] for batch in data.eval_batches("validation", 500)])
    assert np.bincount(labels).tolist() == [500] * 10


def test_one_process_prepares_and_the_others_wait(tmp_path):
    archives = write_cifar10(tmp_path / "a", per_class=100)
    command = [sys.executable, "-m", "research.data", "prepare", "cifar10_jpeg"]
    command += [f"--manual_dir={archives}", f"--data_dir={tmp_path}"]
    start = lambda: subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    outputs = sorted(process.communicate()[0] for process in [start(), start()])
    assert "already prepared" in outputs[0]
    assert "train 1,000" in outputs[1]
    assert sources.is_prepared(sources.open_builder("cifar10_jpeg", str(tmp_path)))
