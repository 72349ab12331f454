"""Videos as phones and cameras write them: upright, in their shape, by time; and folders of them."""

import fractions
import io
import shutil

import av
import numpy as np
import pytest
from PIL import Image

from research.data.clips import files as video_files
from tests.running import run

RED, GREEN, BLUE, YELLOW = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)
WIDTH, HEIGHT = 96, 64


def corners(size=(WIDTH, HEIGHT)):
    """An image whose quarters are red and green above, blue and yellow below."""
    width, height = size
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[: height // 2, : width // 2], pixels[: height // 2, width // 2 :] = RED, GREEN
    pixels[height // 2 :, : width // 2], pixels[height // 2 :, width // 2 :] = BLUE, YELLOW
    return pixels


def write(path, frames, times=None, rotation=0, matrix=None, aspect=None, codec="mpeg4"):
    """A video of `frames`, at `times` in 1/600 s where they are not a tenth of a second apart; it may say how to turn
    it and how wide its pixels are.
    """
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10 if times is None else 600)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.codec_context.qmin = stream.codec_context.qmax = 2
        if aspect:
            stream.sample_aspect_ratio = fractions.Fraction(aspect)
        if rotation:
            stream.set_display_rotation(rotation)
        if matrix:
            a, b, c, d = (65536 * value for value in matrix)
            stream.set_display_matrix([a, b, 0, c, d, 0, 0, 0, 1 << 30])
        packets = [stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")) for pixels in frames]
        packets = [packet for some in (*packets, stream.encode(None)) for packet in some]
        for number, packet in enumerate(packets):
            if times is not None:
                packet.pts = packet.dts = times[number]
                packet.duration = ([*times[1:], 2 * times[-1] - times[-2]])[number] - times[number]
            container.mux(packet)
    return path


def seen(path, count=8, side=64):
    """The frames of a video as people see them, [frames, height, width, 3]."""
    frames = video_files.read(path, count, side).frames
    return np.stack([np.asarray(Image.open(io.BytesIO(frame)).convert("RGB")) for frame in frames])


def quarters(image):
    """Where `corners` has come to: the names of the colours, in reading order."""
    names, found = {"red": RED, "green": GREEN, "blue": BLUE, "yellow": YELLOW}, []
    height, width = image.shape[:2]
    for y in (height // 4, 3 * height // 4):
        for x in (width // 4, 3 * width // 4):
            found.append(min(names, key=lambda name: np.abs(image[y, x].astype(int) - names[name]).sum()))
    return found


@pytest.mark.parametrize(("degrees", "expected"), [
    (0, ["red", "green", "blue", "yellow"]), (90, ["green", "yellow", "red", "blue"]),
    (180, ["yellow", "blue", "green", "red"]), (270, ["blue", "red", "yellow", "green"]),
])  # fmt: skip
def test_videos_of_phones_stand_upright(tmp_path, degrees, expected):
    frames = seen(write(tmp_path / "a.mp4", [corners()] * 5, rotation=degrees))  # counterclockwise
    assert frames.shape[1:3] == ((WIDTH, HEIGHT) if degrees % 180 else (HEIGHT, WIDTH))
    assert all(quarters(frame) == expected for frame in frames)


@pytest.mark.parametrize(("matrix", "expected"), [
    ((-1, 0, 0, 1), ["green", "red", "yellow", "blue"]), ((1, 0, 0, -1), ["blue", "yellow", "red", "green"]),
    ((0, 1, 1, 0), ["red", "blue", "green", "yellow"]), ((0, -1, -1, 0), ["yellow", "green", "blue", "red"]),
])  # fmt: skip
def test_mirrored_videos(tmp_path, matrix, expected):  # a, b, c, d: (x, y) goes to (a x + c y, b x + d y)
    assert quarters(seen(write(tmp_path / "a.mp4", [corners()] * 5, matrix=matrix))[0]) == expected


@pytest.mark.parametrize(("aspect", "degrees", "shape"), [
    ("2/1", 0, (64, 192)), ("1/2", 0, (128, 96)), ("2/1", 90, (192, 64)), ("1/1", 0, (64, 96)),
])  # fmt: skip
def test_pixels_that_are_not_square(tmp_path, aspect, degrees, shape):
    path = write(tmp_path / "a.mp4", [corners()] * 5, rotation=degrees, aspect=aspect)
    assert seen(path, side=144).shape[1:3] == shape


def flat(colour, count):
    return [np.full((48, 64, 3), colour, np.uint8)] * count


def share_of_red(frames):
    return np.mean(frames[..., 0].mean((1, 2)) > frames[..., 2].mean((1, 2)))


def test_frames_are_chosen_by_time(tmp_path):
    times = [300 * number for number in range(18)] + [5400 + 10 * number for number in range(60)]
    path = write(tmp_path / "a.mp4", flat(RED, 18) + flat(BLUE, 60), times)  # 9 s and 1 s
    assert share_of_red(seen(path, 32)) == pytest.approx(0.9, abs=1 / 32)
    assert share_of_red(seen(path, 4)) == 0.75


def test_a_long_video_of_variable_rate(tmp_path):
    times = [60 * number for number in range(1500)] + [90_000 + 600 * number for number in range(150)]
    path = write(tmp_path / "a.mp4", flat(RED, 1500) + flat(BLUE, 150), times)  # 150 s each, more than is kept at once
    assert share_of_red(seen(path, 32)) == pytest.approx(0.5, abs=1 / 32)


def test_few_frames_are_seen_equally_long(tmp_path):
    frames = [flat((60 * number, 0, 0), 1)[0] for number in range(5)]
    levels = np.round(seen(write(tmp_path / "a.mp4", frames), 20)[:, 0, 0, 0] / 60)
    assert np.bincount(levels.astype(int)).tolist() == [4, 4, 4, 4, 4]


def sound_only(path):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16_000, layout="mono")
        samples = np.sin(np.arange(16_000, dtype=np.float32))[None]
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
        frame.sample_rate = 16_000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def bad_videos(root):
    """What messages say of a file -> the file."""
    root.mkdir(exist_ok=True)
    (root / "empty.mp4").write_bytes(b"")
    (root / "page.mp4").write_bytes(b"<html>404</html>")
    (root / "list.mp4").write_bytes(b"ffconcat version 1.0\nfile whole.mp4\n")
    whole = write(root / "whole.mp4", flat(RED, 8))
    (root / "cut.mp4").write_bytes(whole.read_bytes()[:-200])  # its index comes last
    return {
        "cannot be decoded": root / "empty.mp4",
        "cannot be decoded ": root / "page.mp4",
        "cannot be decoded  ": root / "list.mp4",
        "cannot be decoded   ": root / "cut.mp4",
        "cannot be decoded: No such file": root / "absent.mp4",
        "has 1 frames; at least 4 are needed": write(root / "one.mp4", flat(RED, 1)),
        "has 3 frames; at least 4 are needed": write(root / "three.mp4", flat(RED, 3)),
        "holds no video, only sound": sound_only(root / "sound.mp4"),
        "has pixels 40 times as wide as high": write(root / "flat.mp4", flat(RED, 5), aspect="40/1"),
    }


def test_what_is_no_video_is_named_in_one_line(tmp_path, capfd):
    for message, path in bad_videos(tmp_path / "bad").items():
        with pytest.raises(ValueError, match=message.strip()) as caught:
            video_files.read(path, 8, 64)
        assert type(caught.value) is ValueError and str(caught.value).startswith(f"video '{path}' ")
        assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_odd_names_and_titles(tmp_path):
    path = write(tmp_path / "a.mp4", flat(RED, 5))
    for name in ("http:a.mp4", "concat:a|b.mp4", "100%d.mp4"):
        assert seen(shutil.copy(path, tmp_path / name)).shape == (8, 48, 64, 3)


def cut_off(path, frames=80):
    """A file that announces `frames`, of which about half are there."""
    noise = np.random.default_rng(0).integers(0, 256, (frames, 48, 64, 3), np.uint8)
    whole = write(path.with_name("whole.avi"), list(noise), codec="mjpeg").read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    path.with_name("whole.avi").unlink()
    return path


def test_a_matroska_file_that_was_cut_is_noticed(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (40, 48, 64, 3), np.uint8)
    whole = write(tmp_path / "whole.mkv", list(noise)).read_bytes()
    assert not video_files.read(tmp_path / "whole.mkv", 8, 48).warning
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(whole[:-5000])
    assert video_files.read(cut, 8, 48).warning == "is truncated: 5,000 bytes are missing"
    # Written to a pipe, it says that nobody knows its size.
    size = whole.index(b"\x18\x53\x80\x67") + 4
    cut.write_bytes(whole[:size] + b"\x01" + b"\xff" * 7 + whole[size + 8 : -5000])
    assert not video_files.read(cut, 8, 48).warning


# ---- Folders.


def folder(root):
    for name, colour in (("blue", BLUE), ("red", RED)):
        (root / name).mkdir(parents=True)
        for number in range(6):
            write(root / name / f"{number}.mp4", flat(colour, 5))
    return root


def prepare(root, *flags):
    return run(["research.data", "prepare", f"folder:{root}", f"--data_dir={root.parent / 'data'}", *flags])


def refused(outcome):
    """The line that says what is wrong; progress may come before it."""
    assert outcome.code == 2 and "Traceback" not in outcome.err, outcome
    assert outcome.err.splitlines()[-1].startswith("error: ")
    return outcome.err.splitlines()[-1]


def test_counts_of_what_was_read_and_what_not(tmp_path):
    root = folder(tmp_path / "own")
    assert "train 12" in prepare(root).out
    cut_off(root / "red/cut.avi")
    outcome = prepare(root)
    assert outcome.code == 0 and "train 13" in outcome.out
    assert "1 used as far as they can be decoded: red/cut.avi is truncated: it holds 4." in outcome.out
    shutil.copy(bad_videos(tmp_path / "bad")["has 3 frames; at least 4 are needed"], root / "red/three.mp4")
    sound_only(root / "blue/sound.mp4")
    assert "blue/sound.mp4' holds no video" in refused(prepare(root)) and "skip_undecodable" in refused(prepare(root))
    outcome = prepare(root, "--skip_undecodable")
    assert "train 13" in outcome.out and "2 undecodable left out" in outcome.out
    assert "sound.mp4" in outcome.out and "three.mp4" in outcome.out


@pytest.mark.long
def test_prediction_names_a_file_that_it_cannot_use(tmp_path):
    arguments = ["experiments.video.main", "--config=configs/video/fight_vivit.py:smoke", "--mode=predict"]
    arguments += [f"--config.data.name=folder:{folder(tmp_path / 'own')}", f"--config.data.dir={tmp_path / 'data'}"]
    arguments += [f"--workdir={tmp_path / 'run'}"]
    bad = bad_videos(tmp_path / "bad")
    for message in ("cannot be decoded", "has 3 frames; at least 4 are needed", "holds no video, only sound"):
        line = refused(run([*arguments, bad[message]]))
        assert message in line and str(bad[message]) in line
    outcome = run([*arguments, cut_off(tmp_path / "cut.avi")])
    assert "cut.avi' is truncated: it holds 4." in outcome.err
    assert "checkpoint" in refused(outcome)  # it was read; but nothing has been trained
