"""Video analysis: train, evaluate or use a transformer over space and time on labelled clips. See README.md."""

from research import interrupt
from research.train import preemption

if __name__ == "__main__":
    preemption.exit_on_sigterm()  # before the slow imports, so that SIGTERM always means 75
    interrupt.end_on_interrupt()

from collections.abc import Sequence
from typing import Any

import numpy as np

from research import cli
from research import config as config_lib
from research.data import clips
from research.data.spec import ClipSpec
from research.interop import start
from research.models.video import VideoViT, VideoViTSpec
from research.parallel import processes
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


def build(config: Any, order: str = clips.ORDERS[0]) -> tuple[video.Task, clips.Clips]:
    """The task and the data of a config; nothing is read or computed yet. Evaluation sees frames in `order`."""
    data = clips.load(ClipSpec(**config_lib.plain(config.data)), order)
    spec, precision = VideoViTSpec(**config_lib.plain(config.model)), config.precision
    model = VideoViT(spec, data.num_classes, precision.compute, precision.params)
    task = classification.LabelSpec(**config_lib.plain(config.task))
    return video.Task(model, data.image_shape, data.mean, data.std, task), data


def main(config: Any, workdir: str, mode: str, inputs: Sequence[str] = ()) -> dict[str, Any] | None:
    """Runs one mode; `inputs` are the video files of `predict`."""
    task, data = build(config)
    if mode == "predict":
        return show_predictions(config, task, data, workdir, inputs)
    return trainer.run(mode, config, task, data, workdir, start.find, confusion.draw)


def show_predictions(config: Any, task: video.Task, data: clips.Clips, workdir: str, files: Sequence[str]):
    """Prints the likeliest classes of each video file, with their probabilities."""
    examples = classification.unlabelled(np.stack([data.read(file) for file in files]))
    outputs = trainer.predict(config, task, data, workdir, examples)
    if not processes.is_main():
        return
    for file, probabilities in zip(files, outputs["probabilities"], strict=True):
        print(f"{file}: {classification.likeliest(probabilities, data.class_names)}")


if __name__ == "__main__":
    cli.run(main)
