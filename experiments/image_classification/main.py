"""Image classification: train, evaluate or use a ViT or CNN on labelled images. See README.md."""

from research import huge_pages, interrupt
from research.train import preemption

if __name__ == "__main__":
    huge_pages.enable()
    preemption.exit_on_sigterm()  # before the slow imports, so that SIGTERM always means 75
    interrupt.end_on_interrupt()

from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.image_classification.experiment import ImageClassification
from research import predicting
from research.cli import experiment, experiments
from research.data import dataset
from research.data.images import files as image_files
from research.tasks import classification
from research.train import trainer


def main(
    config: ImageClassification, workdir: str, mode: str, inputs: Sequence[str] = (), out: str = ""
) -> dict[str, Any] | None:
    """Runs one mode; `inputs` of `predict` are image files, folders of them, patterns or `-`, see predicting.inputs."""
    task, data = config.build(predicting.known(mode, workdir))
    if mode == "predict":
        return show_predictions(config, task, data, workdir, inputs, out)
    return trainer.run(mode, config, task, data, workdir, experiments.load_weights, experiments.load_teacher)


def show_predictions(
    config: ImageClassification,
    task: classification.ClassificationTask,
    data: dataset.PreparedDataset,
    workdir: str,
    inputs: Sequence[str],
    out: str,
):
    """Prints the most likely classes of each image file, with their probabilities; `out` holds those of all classes."""
    with predicting.Asking(config, task, data, workdir, out) as asking:
        for files, arrays in asking.batches(predicting.files(inputs, image_files.suffixes(), "images"), data.read):
            outputs = asking.outputs(classification.unlabelled(np.stack(arrays)))
            for file, probabilities in zip(files, outputs["probabilities"], strict=True):
                line = f"{file}: {classification.top_classes(probabilities, data.class_names)}"
                asking.answer(line, {"input": file} | classification.record(probabilities, data.class_names))


if __name__ == "__main__":
    experiment.run(main)
