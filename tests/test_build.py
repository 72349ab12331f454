"""Building a config reads and writes no data, and what is wrong with it is said before data are prepared."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from research import config as config_lib
from research.spec.contracts import DatasetInfo
from research.train import trainer
from tests.train import toy

ROOT = Path(__file__).parents[1]
FILES = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("configs/*/*.py"))
CODE = tuple({str(ROOT), sys.prefix, sys.base_prefix, *sysconfig.get_paths().values(), "/proc", "/sys", "/dev"})
CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "os.link", "os.symlink")
each_file = pytest.mark.parametrize("file", FILES, ids=lambda file: Path(file).stem)


class Watch:
    """What is opened or changed on disk while it is on. Python cannot take such a hook away again."""

    def __init__(self):
        self.on, self.read, self.changed = False, [], []
        sys.addaudithook(self._see)

    def __enter__(self):
        self.on, self.read, self.changed = True, [], []
        return self

    def __exit__(self, *_):
        self.on = False

    def _see(self, event, arguments):
        if not self.on:
            return
        if event == "open" and isinstance(arguments[0], str | bytes):
            path, writes = os.fsdecode(arguments[0]), arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            if "__pycache__" not in path:
                (self.changed if writes else self.read).append(path)
        elif event in CHANGES and "__pycache__" not in str(arguments[0]):
            self.changed.append(f"{event} {arguments[0]}")


WATCH = Watch()


def is_code(path):
    return any(os.path.realpath(path).startswith(os.path.realpath(place) + os.sep) for place in CODE)


def test_a_file_that_is_read_or_written_is_seen(tmp_path):
    with WATCH as seen:
        (tmp_path / "a").write_text("a")
        (tmp_path / "a").read_text()
        (tmp_path / "b").mkdir()
    assert seen.changed == [str(tmp_path / "a"), f"os.mkdir {tmp_path / 'b'}"]
    assert [path for path in seen.read if not is_code(path)] == [str(tmp_path / "a")]


@each_file
def test_building_reads_and_writes_no_data(file, tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    config = config_lib.load(file, "smoke")
    with WATCH as seen:
        task, data = config.build()
        example = task.example(config.train.batch_size)
    assert seen.changed == [] and [path for path in seen.read if not is_code(path)] == []
    assert example["weight"].shape == (config.train.batch_size,) and not data.is_prepared
    assert os.listdir(tmp_path) == []


class Unprepared(toy.Data):
    """Data whose preparation must not begin."""

    def prepare(self) -> DatasetInfo:
        raise AssertionError("data are prepared before the config is checked")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"train.batch_size": 7}, "config.train.batch_size=7 must be a multiple of"),
        ({"mesh.data": 1000}, "mesh"),
        ({"precision.params": "float64"}, "config.precision.params='float64' needs JAX_ENABLE_X64=1"),
    ],
)
def test_a_config_is_checked_before_data_are_prepared(wrong, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        trainer.run("train", toy.make_config(**wrong), toy.make_task(), Unprepared(), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_chooses_checkpoints_is_checked_before_data_are_prepared(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "data"))
    for words, message in (
        (["task.select_by=bogus"], "select_by='bogus' is not computed while training"),
        (["task.select_by=bogus", "train.score=all"], "select_by='bogus' is not a score of config.task.metrics"),
    ):
        config = config_lib.load("configs/translation/multi30k_de_en.py", "smoke", words)
        with pytest.raises(ValueError, match=message):
            trainer.run("train", config, *config.build(), str(tmp_path / "run"))
    assert os.listdir(tmp_path) == []


def test_a_run_of_another_config_is_refused_before_data_are_prepared(tmp_path):
    trainer.run("train", toy.make_config(**{"train.steps": 4}), toy.make_task(), toy.Data(), tmp_path / "run")
    with pytest.raises(ValueError, match=r"optimizer.learning_rate: 0.01 -> 0.5"):
        config = toy.make_config(**{"train.steps": 4, "optimizer.learning_rate": 0.5})
        trainer.run("train", config, toy.make_task(), Unprepared(), tmp_path / "run")


def test_reading_data_needs_no_jax():
    """The processes that read data would each take its memory, and the time to import it."""
    code = (
        "import sys; from research.data.images import detection, segmentation; from research.data.sound import speech; "
        "from research.data.text import dataset; sys.exit('jax' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
