"""Driving scenes: train, evaluate or use a model that gives every pixel of a picture a class. See README.md."""

from research import interrupt
from research.train import preemption

if __name__ == "__main__":
    preemption.exit_on_sigterm()  # before the slow imports, so that SIGTERM always means 75
    interrupt.end_on_interrupt()

from collections.abc import Sequence
from typing import Any

from PIL import Image

from research import config as config_lib
from research import predicting
from research.cli import experiment
from research.data import drawing, image_files, recorded
from research.data import segmentation as scenes
from research.interop import start
from research.models import backbones, segmenter, vit
from research.parallel import processes
from research.report import confusion
from research.tasks import segmentation
from research.train import rundir, trainer


def defaults(config: Any) -> dict[str, Any]:
    """Every field that a config of this experiment may set, with its default."""
    return trainer.defaults(config) | {
        "data": scenes.SegmentationDataSpec,
        "model": backbones.specs(segmenter.Segmenter),
        "task": segmentation.SegmentationSpec,
    }


def build(config: Any, known: recorded.Recorded | None = None) -> tuple[segmentation.Task, scenes.Scenes]:
    """The task and the data of a config, or the data that a run has recorded; nothing is read or computed yet."""
    data = scenes.load(scenes.SegmentationDataSpec(**config_lib.plain(config.data)), known)
    fields = {key: value for key, value in config_lib.plain(config.model).items() if key != "name"}
    dtypes = {"dtype": config.precision.compute, "param_dtype": config.precision.params}
    model = backbones.make(segmenter.Segmenter, config.model.name, fields, data.num_classes, **dtypes)
    sizes = data.train_transform.size, data.eval_transform.size
    if isinstance(model.backbone, vit.ViT) and sizes[0] != sizes[1]:
        raise ValueError(
            f"a ViT sees pictures of one size, but config.data.image_size={sizes[0]} and eval_size={sizes[1]}; "
            "set both to the size of the largest picture, or take a ResNet"
        )
    spec = segmentation.SegmentationSpec(**config_lib.plain(config.task))
    return segmentation.Task(model, data.class_names, data.image_shape, data.mean, data.std, spec), data


def main(config: Any, workdir: str, mode: str, inputs: Sequence[str] = (), out: str = "") -> dict[str, Any] | None:
    """Runs one mode; `inputs` of `predict` are image files, folders of them, patterns or `-`, see predicting.inputs."""
    task, data = build(config, predicting.known(mode, workdir))
    if mode == "predict":
        return show_predictions(config, task, data, workdir, inputs, out)
    return trainer.run(mode, config, task, data, workdir, start.find, confusion.draw)


def show_predictions(
    config: Any, task: segmentation.Task, data: scenes.Scenes, workdir: str, inputs: Sequence[str], out: str
) -> None:
    """Writes two images below `workdir`/predict for each image file, and prints where.

    NAME.png is the image in the colours of its classes, with a legend; NAME_mask.png holds their numbers.
    """
    folder = rundir.Folder(workdir)
    named = predicting.files(inputs, image_files.suffixes(), "images")
    places = rundir.prediction_paths(folder, [each.name for each in named])
    with predicting.Asking(config, task, data, workdir, out) as asking:
        for files, images in asking.batches(named, lambda file: image_files.read(file, scenes.CHANNELS)):
            outputs = asking.outputs(data.examples(images))
            if not processes.is_main():
                continue
            for file, image, mask in zip(files, images, outputs["mask"], strict=True):
                mask = data.in_picture(mask, image)
                places[file].parent.mkdir(exist_ok=True)
                drawing.overlay(image, mask, data.class_names, data.colours).save(f"{places[file]}.png")
                Image.fromarray(mask).save(f"{places[file]}_mask.png")
                said = f"{workdir}/predict/{places[file].name}"
                asking.answer(
                    f"{file}: {said}.png", {"input": file, "image": f"{said}.png", "mask": f"{said}_mask.png"}
                )
        folder.push()


if __name__ == "__main__":
    experiment.run(main)
