"""Semantic segmentation of driving scenes: train, evaluate or use a model. See README.md."""

from research import huge_pages, interrupt
from research.train import preemption

if __name__ == "__main__":
    huge_pages.enable()
    preemption.exit_on_sigterm()  # before the slow imports, so that SIGTERM always means 75
    interrupt.end_on_interrupt()

from collections.abc import Sequence
from typing import Any

from PIL import Image

from experiments.driving_segmentation.experiment import DrivingSegmentation
from research import predicting
from research.cli import experiment, experiments
from research.data.images import files as image_files
from research.data.images import segmentation as scenes
from research.parallel import processes
from research.report import drawing
from research.tasks import segmentation
from research.train import rundir, trainer


def main(
    config: DrivingSegmentation, workdir: str, mode: str, inputs: Sequence[str] = (), out: str = ""
) -> dict[str, Any] | None:
    """Runs one mode; `inputs` of `predict` are image files, folders of them, patterns or `-`, see predicting.inputs."""
    task, data = config.build(predicting.known(mode, workdir))
    if mode == "predict":
        return show_predictions(config, task, data, workdir, inputs, out)
    return trainer.run(mode, config, task, data, workdir, experiments.load_weights)


def show_predictions(
    config: DrivingSegmentation,
    task: segmentation.SegmentationTask,
    data: scenes.SegmentationDataset,
    workdir: str,
    inputs: Sequence[str],
    out: str,
) -> None:
    """Writes two images below `workdir`/predict for each image file, and prints the paths.

    NAME.png is the image with a colour overlay of its classes and a legend; NAME_mask.png holds class indices.
    """
    folder = rundir.RunDirectory(workdir)
    named = predicting.files(inputs, image_files.suffixes(), "images")
    paths = rundir.prediction_paths(folder, [each.name for each in named])
    with predicting.Asking(config, task, data, workdir, out) as asking:
        for files, images in asking.batches(named, lambda file: image_files.read(file, scenes.CHANNELS)):
            outputs = asking.outputs(data.examples(images))
            if not processes.is_main():
                continue
            for file, image, mask in zip(files, images, outputs["mask"], strict=True):
                mask = data.in_image(mask, image)
                paths[file].parent.mkdir(exist_ok=True)
                drawing.overlay(image, mask, data.class_names, data.colours).save(f"{paths[file]}.png")
                Image.fromarray(mask).save(f"{paths[file]}_mask.png")
                said = f"{workdir}/predict/{paths[file].name}"
                asking.answer(
                    f"{file}: {said}.png", {"input": file, "image": f"{said}.png", "mask": f"{said}_mask.png"}
                )
        folder.push()


if __name__ == "__main__":
    experiment.run(main)
