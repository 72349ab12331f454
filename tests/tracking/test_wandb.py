"""Weights & Biases without network."""

import json
import struct
import time

import numpy as np
import pytest

from research.tracking import base, trackers
from research.tracking import weights_and_biases as tracker
from research.tracking.base import Histogram, TrackedRun

pytest.importorskip("wandb", reason="wandb is not installed; it comes with the extra [trackers]")

BLOCK = 32768


def records(folder):
    """The records of the offline runs in a folder, in the order of their starts.

    The format is that of LevelDB's log: blocks of 32 kB, in which a record is one or more chunks, after a header of 7
    bytes.
    """
    from wandb.proto import wandb_internal_pb2

    for path in sorted(folder.glob("wandb/offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime):
        content, position, parts = path.read_bytes(), 7, b""
        while position + 7 <= len(content):
            if BLOCK - position % BLOCK < 7:  # too little for the header of a chunk
                position += BLOCK - position % BLOCK
                continue
            _, length, kind = struct.unpack_from("<IHB", content, position)
            parts += content[position + 7 : position + 7 + length]
            position += 7 + length
            if kind in (1, 4):  # whole, or its last chunk
                yield wandb_internal_pb2.Record.FromString(parts)
                parts = b""


def history(folder):
    rows = (each.history.item for each in records(folder) if each.HasField("history"))
    return [{item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in row} for row in rows]


def test_an_offline_run_holds_what_was_sent_and_is_resumed_under_its_id(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setattr(trackers, "STOP_S", 60.0)  # a busy machine is slow
    base.check(("wandb",), login=True)
    said = []
    for first in (1, 3):
        run = TrackedRun(tmp_path, "run", {"train": {"steps": 4}}, first)
        opened = trackers.Trackers(("wandb",), run, said.append)
        for step in range(first, first + 2):
            opened.scalars(step, {"train/loss": 10.0 * step})
        opened.image(step, "i", np.zeros((4, 5, 3), np.uint8))
        opened.histograms(step, {"h": Histogram(np.array([1, 2]), np.array([0.0, 1.0, 2.0]))})
        opened.texts(step, "t", ["a", "b"])
        opened.close(first == 3)
        time.sleep(1.1)  # folders are named after the second they begin in
    assert said == []
    runs = [each.run for each in records(tmp_path) if each.HasField("run")]
    assert {run.run_id for run in runs} == {json.loads((tmp_path / base.IDS).read_text())["wandb"]}
    assert runs[0].project == tracker.PROJECT and runs[0].display_name == "run"
    config = {item.key: json.loads(item.value_json) for item in runs[0].config.update}
    assert config["train"] == {"steps": 4}
    rows = history(tmp_path)
    losses = [(row["step"], row["train/loss"]) for row in rows if "train/loss" in row]
    assert losses == [(1, 10), (2, 20), (3, 30), (4, 40)]
    found = lambda *names: [[row[name] for name in names] for row in rows if names[0] in row]
    assert found("h/values", "h/bins", "step") == [[[1, 2], [0, 1, 2], step] for step in (2, 4)]
    assert found("i/width", "i/height") == [[5, 4]] * 2 and found("t/nrows") == [[2]] * 2


def test_a_missing_key_is_refused_in_one_line(monkeypatch):
    import wandb

    def login(**_):
        raise RuntimeError("api_key not configured\n(no-tty)")

    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setattr(wandb, "login", login)
    with pytest.raises(
        ValueError, match=r"there is no API key \(api_key not configured \(no-tty\)\); run `wandb login`"
    ):
        base.check(("wandb",), login=True)
    base.check(("wandb",), login=False)
