"""Video analysis: train, evaluate or use a transformer over space and time on labelled clips. See README.md."""

from research import interrupt
from research.train import preemption

if __name__ == "__main__":
    preemption.exit_on_sigterm()  # before the slow imports, so that SIGTERM always means 75
    interrupt.end_on_interrupt()

from collections.abc import Sequence
from typing import Any

import numpy as np

from research import config as config_lib
from research import predicting
from research.cli import experiment
from research.data import clips, recorded, video_files
from research.data.spec import ClipSpec
from research.interop import start
from research.models.video import VideoViT, VideoViTSpec
from research.report import confusion
from research.tasks import classification, video
from research.train import trainer


def defaults(config: Any) -> dict[str, Any]:
    """Every field that a config of this experiment may set, with its default."""
    return trainer.defaults(config) | {
        "data": ClipSpec,
        "model": VideoViTSpec,
        "task": classification.LabelSpec,
    }


def build(
    config: Any, order: str = clips.ORDERS[0], known: recorded.Recorded | None = None
) -> tuple[video.Task, clips.Clips]:
    """The task and the data of a config, or the data that a run has recorded; nothing is read or computed yet.

    Evaluation sees frames in `order`.
    """
    data = clips.load(ClipSpec(**config_lib.plain(config.data)), order, known)
    spec, precision = VideoViTSpec(**config_lib.plain(config.model)), config.precision
    model = VideoViT(spec, data.num_classes, precision.compute, precision.params)
    task = classification.LabelSpec(**config_lib.plain(config.task))
    return video.Task(model, data.image_shape, data.mean, data.std, task), data


def main(config: Any, workdir: str, mode: str, inputs: Sequence[str] = (), out: str = "") -> dict[str, Any] | None:
    """Runs one mode; `inputs` of `predict` are video files, folders of them, patterns or `-`, see predicting.inputs."""
    task, data = build(config, known=predicting.known(mode, workdir))
    if mode == "predict":
        return show_predictions(config, task, data, workdir, inputs, out)
    return trainer.run(mode, config, task, data, workdir, start.find, confusion.draw)


def show_predictions(config: Any, task: video.Task, data: clips.Clips, workdir: str, inputs: Sequence[str], out: str):
    """Prints the likeliest classes of each video file, with their probabilities; `out` holds those of all classes."""
    with predicting.Asking(config, task, data, workdir, out) as asking:
        for files, arrays in asking.batches(predicting.files(inputs, video_files.SUFFIXES, "videos"), data.read):
            outputs = asking.outputs(classification.unlabelled(np.stack(arrays)))
            for file, probabilities in zip(files, outputs["probabilities"], strict=True):
                line = f"{file}: {classification.likeliest(probabilities, data.class_names)}"
                asking.answer(line, {"input": file} | classification.record(probabilities, data.class_names))


if __name__ == "__main__":
    experiment.run(main)
