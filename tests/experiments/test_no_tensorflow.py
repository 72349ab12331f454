"""TensorFlow is never imported: not where it is missing (as in every other test), and not where it is installed."""

import pytest

# Stands where TensorFlow would be found. Some libraries look whether it is there, which imports nothing.
TENSORFLOW = """
open("imported", "a").close()
raise ImportError("TensorFlow was imported")
"""
SCRIPT = """
from experiments.image_classification import main
from research import config as configs
from research.data import prepare
from research.train import trainer

prepare.prepare("digits", data_dir="prepared")
config = configs.load("configs/image_classification/digits_vit.py", "smoke", ["data.dir=prepared"])
main.main(config, "runs/digits", "train")
task, data = config.build()
trainer.predict(config, task, data, "runs/digits", next(iter(data.eval_batches("test", 4))))
"""


@pytest.mark.long
def test_it_is_not_imported(house):
    (house.root / "tensorflow.py").write_text(TENSORFLOW)
    (house.root / "script.py").write_text(SCRIPT)
    done = house.run("python script.py")
    assert done.returncode == 0, done.stderr[-2000:]
    assert not (house.root / "imported").exists()
    assert house.run("python -c 'import tensorflow'").returncode  # so an import would have been noticed
    assert (house.root / "imported").exists()
