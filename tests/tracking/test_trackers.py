"""Trackers: what they are sent, and that their failures stay theirs."""

import io
import json
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from PIL import Image

from research.tracking import base, trackers
from research.tracking.base import Histogram, TrackedRun
from research.tracking.tensorboard import TensorBoard
from tests.tracking import events


class Recorder:
    """Keeps what it is sent; its methods fail while `broken`."""

    def __init__(self, broken=False):
        self.broken, self.calls = broken, []

    def _keep(self, *call):
        self.calls.append(call)
        if self.broken:
            raise ConnectionError("no route\nto host")

    def scalars(self, step, values):
        self._keep("scalars", step, values)

    def image(self, step, name, image):
        self._keep("image", step, name, image)

    def histograms(self, step, values):
        self._keep("histograms", step, values)

    def texts(self, step, name, texts):
        self._keep("texts", step, name, texts)

    def flush(self):
        self._keep("flush")

    def close(self, finished):
        self._keep("close", finished)


def together(tmp_path, said, **recorders):
    run = TrackedRun(tmp_path, "run", {})
    return trackers.Trackers(tuple(recorders), run, said.append, lambda name, run: recorders[name])


def test_each_tracker_gets_everything_in_order(tmp_path):
    said, here, there = [], Recorder(), Recorder()
    all_of_them = together(tmp_path, said, tensorboard=here, wandb=there)
    image = np.zeros((2, 2, 3), np.uint8)
    all_of_them.scalars(1, {"a": 1.5, "b": float("nan")})
    all_of_them.image(1, "i", image)
    all_of_them.texts(2, "t", ["x"])
    all_of_them.flush()
    all_of_them.close(True)
    sent = [("scalars", 1, {"a": 1.5}), ("image", 1, "i", image), ("texts", 2, "t", ["x"]), ("close", True)]
    assert there.calls == sent and [call for call in here.calls if call != ("flush",)] == sent
    assert ("flush",) in here.calls and said == []


def test_a_tracker_that_was_sent_nothing_is_never_opened(tmp_path):
    def opened(*_):
        raise AssertionError("it was opened")

    unused = trackers.Trackers(base.NAMES, TrackedRun(tmp_path, "run", {}), print, opened)
    unused.flush()
    unused.close(False)


def test_a_failure_is_one_warning_and_the_tracker_is_tried_again_later(tmp_path, monkeypatch):
    monkeypatch.setattr(trackers, "RETRY_S", 0.05)
    said, here, there = [], Recorder(), Recorder(broken=True)
    both = together(tmp_path, said, tensorboard=here, mlflow=there)
    for step in range(3):
        both.scalars(step, {"a": 1.0})
    deadline = time.monotonic() + 10
    while not there.calls and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)
    there.broken = False
    both.scalars(3, {"a": 1.0})
    both.close(True)
    assert [call[1] for call in here.calls if call[0] == "scalars"] == [0, 1, 2, 3]
    assert [call[1] for call in there.calls if call[0] == "scalars"] == [0, 3]
    (line,) = said
    assert "mlflow failed (ConnectionError: no route to host); the run goes on" in line


def test_a_tracker_that_hangs_delays_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(trackers, "CLOSE_S", 0.2)
    monkeypatch.setattr(trackers, "MOST_WAITING", 5)
    said, stuck = [], threading.Event()

    class Hanging(Recorder):
        def scalars(self, step, values):
            stuck.wait(30)

    hanging = together(tmp_path, said, wandb=Hanging())
    begun = time.monotonic()
    for step in range(50):
        hanging.scalars(step, {"a": 1.0})
    hanging.close(True)
    assert time.monotonic() - begun < 10
    (line,) = said
    assert "wandb is 5 entries behind" in line
    stuck.set()


def test_ids_are_kept_in_the_run_directory(tmp_path):
    run = TrackedRun(tmp_path, "run", {})
    assert run.known_id("wandb") is None
    run.keep_id("wandb", "a")
    run.keep_id("mlflow", "b")
    run.keep_id("wandb", "c")
    assert json.loads((tmp_path / base.IDS).read_text()) == {"wandb": "c", "mlflow": "b"}
    (tmp_path / base.IDS).write_text("damaged")
    assert run.known_id("wandb") is None


def test_a_missing_package_is_refused_in_one_line(monkeypatch):
    monkeypatch.setattr(base.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"'mlflow', which needs the package mlflow; .*extra \[trackers\]"):
        base.check(("mlflow",), login=False)


PROGRAM = """
import sys
from pathlib import Path
from research.train import rundir
for names in ((), ("tensorboard",)):
    metrics = rundir.Metrics(Path(sys.argv[1]), write=True, trackers=names)
    metrics.resume(0, evaluated=False)
    metrics.write(1, {"a": 1.0})
    metrics.close()
    print(*(name for name in ("tensorboardX", "wandb", "mlflow") if name in sys.modules), sep=",")
"""


def test_no_tracker_is_imported_unless_asked(tmp_path):
    done = subprocess.run([sys.executable, "-c", PROGRAM, tmp_path], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["", "tensorboardX"]


# ---- TensorBoard


def test_tensorboard_events_hold_what_was_sent(tmp_path):
    board = TensorBoard(TrackedRun(tmp_path, "run", {}))
    image = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
    board.scalars(3, {"train/loss": 0.25})
    board.image(3, "i", image)
    board.histograms(3, {"h": Histogram(np.array([3, 0, 1]), np.array([0.0, 1.0, 2.0, 3.0]))})
    board.texts(3, "t", ["first\nline", "second"])
    board.close(True)
    found = events.read(tmp_path / "events")
    assert found["train/loss", 3].simple_value == 0.25
    np.testing.assert_array_equal(Image.open(io.BytesIO(found["i", 3].image.encoded_image_string)), image)
    histogram = found["h", 3].histo
    assert (list(histogram.bucket), list(histogram.bucket_limit)) == ([3, 0, 1], [1, 2, 3])
    assert (histogram.min, histogram.max, histogram.num, histogram.sum) == (0, 3, 4, 3 * 0.5 + 2.5)
    (text,) = (value for (tag, _), value in found.items() if tag.startswith("t/"))
    assert text.tensor.string_val[0].decode() == "    first\n    line\n\n    second"


def test_a_resumed_run_purges_the_events_after_its_step(tmp_path):
    for first, value in ((1, 1.0), (3, 2.0)):
        board = TensorBoard(TrackedRun(tmp_path, "run", {}, first_step=first))
        for step in range(first, 5):
            board.scalars(step, {"a": value})
        board.close(False)
        time.sleep(1.1)  # files are named after the second they begin in
    found = events.read(tmp_path / "events")
    assert [found["a", step].simple_value for step in range(1, 5)] == [1, 1, 2, 2]
