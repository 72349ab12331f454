"""A small repository of its own, with one experiment, and finished runs in it."""

import importlib.util
import json
import subprocess
import sys

import pytest

from research import config as configs
from research.report import records, tables
from research.train import reporting

EXPERIMENT = """
from research.config import Config
from research.spec import Role, Spec, field


class Data(Spec):
    name: str = field(default="toy")
    fold: int = field(default=0)


class Train(Spec):
    steps: int = field(default=1, role=Role.LENGTH)
    log_every: int = field(default=1, role=Role.RUNTIME)


class Mesh(Spec):
    data: int = field(default=-1, role=Role.RUNTIME)


class Toy(Config, tag="toy"):
    data: Data = field(default=Data())
    train: Train = field(default=Train())
    mesh: Mesh = field(default=Mesh())
"""
CONFIG = """
from experiments.toy.experiment import Toy

EXPERIMENT = Toy
RESULT = {
    "metric": "test/accuracy", "also": ["test/loss"],
    "floor": 0.1, "floor_source": "chance",
    "reference": 0.9125, "reference_source": "He et al. 2016, table 6",
}

VARIANTS = ("full", "cpu", "smoke")


def get_config(variant="full"):
    return {"train": {"steps": 40}}
"""


class Repository:
    """Commands and fabricated runs below one root."""

    def __init__(self, root):
        self.root = root
        self.config = root / "configs/toy/net.py"
        self.readme = root / "experiments/toy/README.md"
        self.results = root / "experiments/toy/results.jsonl"
        for path, text in {
            self.config: CONFIG,
            self.readme: f"# Toy\n\nBefore.\n\n{tables.BEGIN}\n{tables.END}\n\nAfter.\n",
            root / "experiments/__init__.py": "",
            root / "experiments/toy/__init__.py": "",
            root / "experiments/toy/experiment.py": EXPERIMENT,
        }.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    def run(self, *words):
        """`python -m research.report` in a process of its own."""
        command = [sys.executable, "-m", "research.report", *map(str, words), "--root", str(self.root)]
        return subprocess.run(command, capture_output=True, text=True, cwd=records.ROOT)

    def finished_run(self, seed=0, accuracy=0.9, overrides=(), **changes):
        """A run directory as the trainer leaves it."""
        overrides = [*overrides, f"seed={seed}"]
        config = configs.load(str(self.config), "full", overrides)
        content = configs.plain(config)
        content["source"]["file"] = "configs/toy/net.py"
        workdir = self.root / "runs" / "-".join(["net", *overrides])
        workdir.mkdir(parents=True, exist_ok=True)
        result = {
            "metrics": {
                "test/accuracy": accuracy,
                "test/loss": 1 - accuracy,
                "validation/accuracy": accuracy,
            },
            "steps": config.train.steps,
            "wall_s": 60.0,
            "params": 421130,
            "config_digest": config.source.digest,
            "commit": "0123456789ab",
            "dirty": False,
            "seed": seed,
            "mesh": {"data": 2, "fsdp": 1},
            "hardware": "some CPU, 2 cores",
            "versions": {"jax": "0.10.2"},
            "data": {
                "name": "toy",
                "version": "1.0.0",
                "counts": {"train": 1150, "test": 360},
                "fingerprint": "f00d",
            },
            "command": f"python -m experiments.toy.main --config=configs/toy/net.py --config.seed={seed}",
            "date": "2025-11-24",
            "report": reporting.of_file(content["source"], str(self.config)),
        }
        (workdir / "config.json").write_text(json.dumps(content))
        (workdir / "result.json").write_text(json.dumps(result | changes))
        curve = [
            {"step": k, "name": f"{split}/loss", "value": height / k}
            for k in (1, 2, 3)
            for split, height in (("train", 1), ("validation", 2))
        ]
        (workdir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in curve))
        event = {"kind": "step", "start": 1.7e9, "seconds": 60.0, "step": 3}
        (workdir / "timeline.jsonl").write_text(json.dumps(event) + "\n")
        return workdir


@pytest.fixture
def repository(tmp_path, monkeypatch):
    created = Repository(tmp_path)
    # In this process `experiments` is the package of the real repository.
    spec = importlib.util.spec_from_file_location("toy_experiment", tmp_path / "experiments/toy/experiment.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "toy_experiment", module)  # where the types of fields are looked up
    monkeypatch.setitem(sys.modules, "experiments.toy.experiment", module)
    spec.loader.exec_module(module)
    return created
