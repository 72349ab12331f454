"""Video classification: train, evaluate or use a ViViT on labelled clips. See README.md."""

from research import huge_pages, interrupt
from research.train import preemption

if __name__ == "__main__":
    huge_pages.enable()
    preemption.exit_on_sigterm()  # before the slow imports, so that SIGTERM always means 75
    interrupt.end_on_interrupt()

from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.video.experiment import Video
from research import predicting
from research.cli import experiment, experiments
from research.data.clips import dataset as clips
from research.data.clips import files as video_files
from research.tasks import classification, video
from research.train import trainer


def main(config: Video, workdir: str, mode: str, inputs: Sequence[str] = (), out: str = "") -> dict[str, Any] | None:
    """Runs one mode; `inputs` of `predict` are video files, folders of them, patterns or `-`, see predicting.inputs."""
    task, data = config.build(predicting.known(mode, workdir))
    if mode == "predict":
        return show_predictions(config, task, data, workdir, inputs, out)
    return trainer.run(mode, config, task, data, workdir, experiments.load_weights, experiments.load_teacher)


def show_predictions(
    config: Video, task: video.VideoTask, data: clips.ClipDataset, workdir: str, inputs: Sequence[str], out: str
):
    """Prints the most likely classes of each video file, with their probabilities; `out` holds those of all classes."""
    with predicting.Asking(config, task, data, workdir, out) as asking:
        for files, arrays in asking.batches(predicting.files(inputs, video_files.SUFFIXES, "videos"), data.read):
            outputs = asking.outputs(classification.unlabelled(np.stack(arrays)))
            for file, probabilities in zip(files, outputs["probabilities"], strict=True):
                line = f"{file}: {classification.top_classes(probabilities, data.class_names)}"
                asking.answer(line, {"input": file} | classification.record(probabilities, data.class_names))


if __name__ == "__main__":
    experiment.run(main)
