"""Clips: which frames are seen, alike in all of them; folds of whole sources; video files and folders of them."""

import csv
import io
import zipfile

import av
import numpy as np
import pytest
from PIL import Image

from research.data import prepare
from research.data.clips import dataset as clips
from research.data.clips import files as video_files
from research.data.clips.builders import fight_surv_video, moving_digits
from research.data.images import transforms
from research.data.images.spec import ClipSpec
from tests import samples
from tests.data.conftest import encoded_image


def write_video(path, frames, size=(48, 32), codec="mpeg4"):
    """A video whose frame k is of the grey level 40 + 5 k."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for number in range(frames):
            pixels = np.full((size[1], size[0], 3), 40 + 5 * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def levels(encoded):
    return [np.asarray(transforms.decode(frame, 1)).mean() for frame in encoded]


@pytest.mark.parametrize("suffix", ["mp4", "avi"])
def test_frames_are_spread_evenly_over_a_video(tmp_path, suffix):
    path = write_video(tmp_path / f"clip.{suffix}", 31)
    frames = video_files.read(path, 4, 16).frames
    np.testing.assert_allclose(levels(frames), [40 + 5 * number for number in (0, 10, 20, 30)], atol=4)
    assert transforms.decode(frames[0], 3).size == (24, 16)
    np.testing.assert_allclose(levels(video_files.read(path, 62, 99).frames)[::61], [40, 190], atol=4)


def test_a_long_video_is_subsampled_while_decoding(tmp_path, monkeypatch):
    monkeypatch.setattr(video_files, "_MAX_KEPT", 8)
    frames = video_files.read(write_video(tmp_path / "clip.mp4", 40), 5, 16).frames
    assert np.diff(levels(frames)).min() > 30 and levels(frames)[-1] > 200


def test_what_is_no_video_is_named(tmp_path):
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    write_video(tmp_path / "short.mp4", 2)
    cases = {"bad.mp4": "cannot be decoded", "none.mp4": "cannot be decoded", "short.mp4": "has 2 frames; at least 4"}
    for file, message in cases.items():
        with pytest.raises(ValueError, match=f"video '{tmp_path}/{file}' {message}"):
            video_files.read(tmp_path / file, 8, 16)


def write_folder(root, per_class=10):
    for number, name in enumerate(("dark", "light")):
        (root / name).mkdir(parents=True)
        for index in range(per_class):
            write_video(root / name / f"{index}.avi", 5 + number)
    return root


def test_a_folder_of_videos_is_a_data_set(tmp_path):
    root = write_folder(tmp_path / "videos")
    settings = {"name": f"folder:{root}", "dir": str(tmp_path / "data"), "image_size": 16, "frames": 4}
    data = samples.prepared(clips.load(ClipSpec(**settings)))
    assert data.class_names == ("dark", "light") and data.counts == {"train": 16, "validation": 2, "test": 2}
    batch = next(data.train_batches(0, 4))
    assert batch["image"].shape == (4, 4, 16, 16, 3) and set(batch["label"]) <= {0, 1}
    assert data.read(str(root / "dark/0.avi")).shape == (4, 16, 16, 3)
    assert data.reference("test", 0)["class"] == data.reference("test", 0)["clip"].split("/")[0]
    (root / "dark/broken.avi").write_bytes(b"RIFF")
    with pytest.raises(ValueError, match=r"dark/broken.avi cannot be used \(video .*--skip_undecodable"):
        clips.load(ClipSpec(**settings)).prepare()
    message = prepare.prepare(settings["name"], data_dir=settings["dir"], skip_undecodable=True)
    assert "train 20, 1 undecodable left out" in message


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    root = str(tmp_path_factory.mktemp("clips"))
    for name in ("motion", "sense"):
        prepare.prepare(f"moving_digits/{name}", data_dir=root)
    return root


def test_digits_move_as_their_label_says(digits):
    data = clips.load(ClipSpec(name="moving_digits/motion", dir=digits))
    assert data.counts == {"train": 2000, "validation": 200, "test": 400} and data.image_shape == (8, 16, 16, 1)
    for batch in [next(data.eval_batches("test", 40))]:
        for clip, label in zip(batch["image"], batch["label"], strict=True):
            direction, speed = data.class_names[label].split("_")
            step = np.array(moving_digits.DIRECTIONS[direction]) * moving_digits.SPEEDS[speed]
            for frame, following in zip(clip[..., 0], clip[1:, ..., 0], strict=False):
                np.testing.assert_array_equal(np.roll(frame, step, (0, 1)), following)


def test_orders_of_evaluation(digits):
    read = lambda order: next(
        clips.load(ClipSpec(name="moving_digits/sense", dir=digits), order).eval_batches("test", 8)
    )
    plain, reversed_, shuffled = (read(order)["image"] for order in ("original", "reversed", "shuffled"))
    np.testing.assert_array_equal(plain[:, ::-1], reversed_)
    assert any((plain[row] != shuffled[row]).any() for row in range(8))
    for one, other in zip(plain, shuffled, strict=True):
        assert sorted(frame.tobytes() for frame in one) == sorted(frame.tobytes() for frame in other)
    np.testing.assert_array_equal(shuffled, read("shuffled")["image"])


def test_all_frames_of_a_clip_are_changed_alike():
    pixels = np.random.default_rng(0).integers(0, 256, (20, 20), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png")
    image = transforms.TrainImageTransform(
        size=16,
        resize=20,
        channels=1,
        crop="random",
        flip=True,
        rotate=20,
        scale=0.2,
        brightness=0.3,
        random_erasing=0.5,
    )
    example = {"frames": [buffer.getvalue()] * 6, "label": 1}
    seen = [clips.TrainClipTransform(image, 6)(example, np.random.default_rng(seed))["image"] for seed in range(5)]
    assert all((clip == clip[:1]).all() for clip in seen) and len({clip.tobytes() for clip in seen}) == 5


def test_training_sees_every_frame_of_its_stretch():
    assert clips.sample_frames(16, 16).tolist() == list(range(16))
    assert clips.sample_frames(16, 4).tolist() == [2, 6, 10, 14]
    drawn = {tuple(clips.sample_frames(16, 4, phase)) for phase in np.linspace(0, 0.999, 100)}
    assert drawn == {tuple(range(first, 16, 4)) for first in range(4)}


def write_ucf101(root):
    """Clips 1 and 2 of groups 1 to 6 of two classes; of the three lists, groups 1 to 2 are for test."""
    lists = {"train": [], "test": []}
    for name in ("Archery", "YoYo"):
        (root / "UCF-101" / name).mkdir(parents=True)
        for number in range(12):
            group, clip = divmod(number, 2)
            path = f"{name}/v_{name}_g{group + 1:02}_c{clip + 1:02}.avi"
            write_video(root / "UCF-101" / path, 5)
            lists["test" if group < 2 else "train"].append(path)
    (root / "ucfTrainTestlist").mkdir()
    for split, paths in lists.items():
        for number in (1, 2, 3):
            lines = [f"{path} 7" if split == "train" else path for path in paths]
            (root / f"ucfTrainTestlist/{split}list0{number}.txt").write_text("\r\n".join(lines) + "\r\n")
    return root


def test_ucf101_holds_whole_groups_out(tmp_path):
    root = write_ucf101(tmp_path / "ucf101")
    prepare.prepare("ucf101_avi/split2", str(root), str(tmp_path / "data"))
    data = clips.load(ClipSpec(name="ucf101_avi/split2", dir=str(tmp_path / "data"), image_size=8, frames=4))
    assert len(data.class_names) == 101 and data.counts == {"train": 8, "validation": 8, "test": 8}
    names = [data.reference("validation", index)["clip"] for index in range(8)]
    assert {name.split("_g")[1][:2] for name in names} == {"05", "06"}
    assert {data.reference("test", index)["class"] for index in range(8)} == {"Archery", "YoYo"}
    (root / "UCF-101/YoYo/v_YoYo_g01_c01.avi").unlink()
    with pytest.raises(ValueError, match=r"YoYo/v_YoYo_g01_c01.avi cannot be used"):
        prepare.prepare("ucf101_avi/split1", str(root), str(tmp_path / "data"))
    file = root / "ucfTrainTestlist/trainlist03.txt"
    file.write_text("Archery/v_Archery_g01_c01.avi 3\nArchery/v_Archery.avi 3\n")
    with pytest.raises(ValueError, match=r"trainlist03.txt, line 2: 'Archery/v_Archery.avi 3' is not <class>"):
        prepare.prepare("ucf101_avi/split3", str(root), str(tmp_path / "data"))


def write_fights(root, groups=20, bad=None):
    root.mkdir()
    rows = []
    with zipfile.ZipFile(root / "frames_16x96x96.zip", "w") as archive:
        for number in range(2 * groups):
            kind = ("fight", "noFight")[number % 2]
            clip = f"{kind}/c{number:03}"
            rows.append(
                [clip, kind, int(kind == "fight"), ("train", "val", "test")[number % 3], f"src{number // 2}", 30]
            )
            for frame in range(15 if bad == "short" and number == 3 else 16):
                archive.writestr(f"{clip}/{frame:02}.jpg", encoded_image([number, frame], (96, 96)))
    if bad == "missing":
        rows.append(["fight/nowhere", "fight", 1, "train", "src0", 30])
    with open(root / "clips.csv", "w", newline="") as file:
        csv.writer(file).writerows([["clip", "class", "label", "split", "source_group", "frames_in_original"], *rows])
    return root


def test_folds_hold_every_clip_once_and_no_source_twice(tmp_path):
    root, seen = write_fights(tmp_path / "fights"), []
    for fold in (0, 1):
        name = f"fight_surv_video/fold{fold}"
        prepare.prepare(name, str(root), str(tmp_path / "data"))
        data = clips.load(ClipSpec(name=name, dir=str(tmp_path / "data"), image_size=8))
        names = lambda split, data=data: [data.reference(split, index)["clip"] for index in range(data.counts[split])]
        parts = {split: names(split) for split in data.counts}
        assert {split: len(part) for split, part in parts.items()} == {"train": 28, "validation": 4, "test": 8}
        sources = {split: {int(clip[-3:]) // 2 for clip in part} for split, part in parts.items()}
        assert not (sources["train"] & sources["test"] or sources["train"] & sources["validation"])
        seen += parts["test"]
    assert len(seen) == len(set(seen)) == 16


def test_clips_of_one_scene_are_one_group(tmp_path):
    file = tmp_path / "clips.csv"
    rows = ["a,noFight,train,unlisted", "b,fight,test,src42", "c,fight,test,src41"]
    file.write_text("\n".join(["clip,class,split,source_group", *rows]))
    found = [(row["source_group"], row["split"]) for row in fight_surv_video.read_table(file)]
    assert found == [("src42", "train"), ("src42", "train"), ("src41", "test")]


def test_splits_of_whole_groups_are_balanced_in_size_and_class():
    rng = np.random.default_rng(0)
    rows = [
        {"source_group": f"g{rng.integers(45)}", "class": ("fight", "noFight")[number % 2]} for number in range(300)
    ]
    dealt = fight_surv_video.deal(rows, 10)
    counts = np.zeros((10, 2), int)
    for row in rows:
        counts[dealt[row["source_group"]], row["class"] == "fight"] += 1
    assert counts.sum(1).min() >= 25 and counts.sum(1).max() <= 35 and np.ptp(counts, axis=1).max() <= 10


@pytest.mark.parametrize(("bad", "message"), [
    ("short", r"noFight/c003 has 15 frames; 16 are needed; fix it, or prepare with --skip_undecodable"),
    ("missing", r"holds no frames of 'fight/nowhere', which clips.csv lists"),
])  # fmt: skip
def test_bad_clips_are_named(tmp_path, bad, message):
    root = write_fights(tmp_path / "fights", groups=4, bad=bad)
    with pytest.raises(ValueError, match=message):
        prepare.prepare("fight_surv_video/fixed", str(root), str(tmp_path / "data"))


def test_bad_rows_are_named(tmp_path):
    file = tmp_path / "clips.csv"
    file.write_text("clip,class,split,source_group\na,fight,train,s\nb,dance,train,s\n")
    with pytest.raises(ValueError, match=r"clips.csv, line 3: class 'dance' is not one of noFight, fight"):
        fight_surv_video.read_table(file)
    file.write_text("clip,class,split,source_group\na,fight,train,\n")
    with pytest.raises(ValueError, match=r"clips.csv, line 2 has no source_group"):
        fight_surv_video.read_table(file)
