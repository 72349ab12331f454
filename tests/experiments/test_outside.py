"""An experiment in a folder outside the repository: nothing below `experiments/` and `configs/` knows of it."""

import json
import subprocess

import numpy as np
import pytest

from research.interop import loader, stablehlo
from research.models.vit import ViT
from tests.experiments.conftest import ROOT
from tests.flags import one_device

EXPERIMENT = """
from research.data.images import classification as images
from research.data.images.spec import ImageSpec
from research.models.vit import ViT, ViTSpec
from research.spec import checks, field
from research.tasks import classification
from research.train.settings import Experiment


class SculptureSpec(classification.LabelSpec, tag="sculptures"):
    chisel: float = field(default=0.5, check=checks.between(0, 1), doc="share of the logits that is kept")


class Task(classification.LabelTask):
    def _logits(self, variables, batch):
        return self.spec.chisel * super()._logits(variables, batch)


class Sculptures(Experiment, tag="sculptures"):
    data: ImageSpec = field(default=ImageSpec(), doc="the images")
    model: ViTSpec = field(default=ViTSpec(), doc="the model")
    task: SculptureSpec = field(default=SculptureSpec(), doc="the loss")

    def build(self, known=None):
        data = images.load(self.data, known)
        model = ViT(self.model, data.num_classes)
        return Task(model, data.image_shape, data.mean, data.std, self.task), data
"""
MAIN = """
from research import predicting
from research.cli import experiment, experiments
from research.train import trainer


def main(config, workdir, mode, inputs=(), out=""):
    task, data = config.build(predicting.known(mode, workdir))
    return trainer.run(mode, config, task, data, workdir, experiments.load_weights)


if __name__ == "__main__":
    experiment.run(main)
"""
CONFIG = """
from experiments.sculptures.experiment import Sculptures

EXPERIMENT = Sculptures
VARIANTS = ("full",)
RESULT = {"metric": "test/accuracy", "floor": 0.1, "floor_source": "chance", "reference": None}


def get_config(variant="full"):
    return {
        "data": {"name": "digits", "image_size": 8, "mean": (77.0,), "std": (96.0,)},
        "model": {"image_size": 8, "patch_size": 4, "width": 8, "depth": 1, "mlp_dim": 8, "num_heads": 1},
        "train": {"steps": 4, "batch_size": 8, "eval_every": 4, "checkpoint_every": 2},
    }
"""


@pytest.fixture
def outside(tmp_path, data_dir, quick_bin):
    """Runs commands in a folder that holds one experiment and one config."""
    for path, text in {
        "experiments/__init__.py": "", "experiments/sculptures/__init__.py": "",
        "experiments/sculptures/experiment.py": EXPERIMENT, "experiments/sculptures/main.py": MAIN,
        "experiments/sculptures/README.md": "<!-- results:begin -->\n<!-- results:end -->\n",
        "configs/sculptures/marble.py": CONFIG,
    }.items():  # fmt: skip
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    env = one_device() | {"TFDS_DATA_DIR": str(data_dir), "PYTHONPATH": f"{tmp_path}:{ROOT}"}

    def run(*words):
        done = subprocess.run(
            [quick_bin / "python", "-m", *words], cwd=tmp_path, env=env, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout + done.stderr

    return run


@pytest.mark.long
def test_it_trains_resumes_plans_is_recorded_and_exported(outside, tmp_path):
    config, run = "--config=configs/sculptures/marble.py", "runs/one"
    outside("research.data", "prepare", "digits")
    train = ("experiments.sculptures.main", config, f"--workdir={run}")
    outside(*train, "--config.train.steps=2", "--config.train.eval_every=2")
    assert "continuing at step 2" in outside(*train)
    assert "chisel" in (tmp_path / run / "config.json").read_text()
    assert "step 4: " in outside("research.cli.tessera", "evaluate", f"--workdir={run}", "--config.task.chisel=0.5")
    assert "* task.chisel" in outside(
        "research.cli.tessera", "show", "configs/sculptures/marble.py", "--config.task.chisel=0.25"
    )
    lines = outside("research.plan", config, "--topology=H100:2", "--json").splitlines()
    (plan,) = (json.loads(line) for line in lines if line.startswith("{"))
    assert plan["mesh"]["data"] == 2 and plan["num_params"] > 100
    outside("research.report", "add", run, f"--root={tmp_path}")
    row = json.loads((tmp_path / "experiments/sculptures/results.jsonl").read_text())
    assert row["experiment"] == "sculptures" and row["metric"] == "test/accuracy"
    outside(*train[:2], "--workdir=runs/two", f"--config.train.init_from={run}")
    assert json.loads((tmp_path / "runs/two/init_from.json").read_text())["fresh"] == {}
    outside("research.interop", "export", run, "weights")
    assert json.loads((tmp_path / "weights/config.json").read_text())["model_type"] == "vit"
    assert_exported(outside, run, tmp_path / "program")


def assert_exported(outside, run, folder):
    """The program computes what the task does, not its model alone."""
    pytest.importorskip("flatbuffers", reason="flatbuffers is not installed; it comes with the extra [interop]")
    outside("research.interop", "export", run, str(folder), "--format=stablehlo")
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 1), np.uint8)
    with np.load(folder / "weights.npz") as weights:
        variables = stablehlo.tree(weights.files, [weights[name] for name in weights.files])
    model = ViT.of(10, image_size=8, patch_size=4, width=8, depth=1, mlp_dim=8, num_heads=1)
    logits = model.apply(variables, (images - np.float32(77)) / np.float32(96))
    np.testing.assert_allclose(loader.load(folder)(images), 0.5 * logits, rtol=1e-5, atol=1e-6)
