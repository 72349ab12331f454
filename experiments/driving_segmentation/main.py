"""Driving scenes: train, evaluate or use a model that gives every pixel of a picture a class. See README.md."""

from research.train import preemption

if __name__ == "__main__":
    preemption.exit_on_sigterm()  # before the slow imports, so that SIGTERM always means 75

from collections.abc import Sequence
from typing import Any

from PIL import Image

from research import cli
from research import config as config_lib
from research.data import drawing, images
from research.data import segmentation as scenes
from research.interop import start
from research.models import resnet, segmenter, vit
from research.parallel import processes
from research.report import confusion
from research.tasks import segmentation
from research.train import rundir, trainer

BACKBONES = {"resnet": resnet.ResNet, "vit": vit.ViT}
_NOT_SET = ("parent", "name", "dtype", "param_dtype")
_DECODER = config_lib.fields_of(segmenter.Segmenter, leave_out=_NOT_SET)


def defaults(config: Any) -> dict[str, Any]:
    """Every field that a config of this experiment may set, with its default."""
    backbone = config_lib.choose(BACKBONES, config.model.name, "model.name")
    return trainer.defaults(config) | {
        "data": scenes.DEFAULTS,
        "model": {"name": "", **config_lib.fields_of(backbone, leave_out=_NOT_SET), **_DECODER},
        "task": config_lib.fields_of(segmentation.Task),
    }


def build(config: Any) -> tuple[segmentation.Task, scenes.Scenes]:
    """The task and the data of a config; nothing is read or computed yet."""
    data = scenes.load(config.data)
    dtypes = {"dtype": config.precision.compute, "param_dtype": config.precision.params}
    of_backbone = {key: value for key, value in config.model.items() if key not in ("name", *_DECODER)}
    backbone = BACKBONES[config.model.name](num_classes=0, **dtypes, **of_backbone)
    decoder = {key: config.model[key] for key in _DECODER}
    model = segmenter.Segmenter(backbone, data.num_classes, **dtypes, **decoder)
    task = segmentation.Task(
        model, data.class_names, data.image_shape, data.mean, data.std, **config_lib.plain(config.task)
    )
    return task, data


def main(config: Any, workdir: str, mode: str, inputs: Sequence[str] = ()) -> dict[str, Any] | None:
    """Runs one mode; `inputs` are the picture files of `predict`."""
    task, data = build(config)
    if mode == "predict":
        return show_predictions(config, task, data, workdir, inputs)
    return trainer.run(mode, config, task, data, workdir, start.find, confusion.draw)


def show_predictions(
    config: Any, task: segmentation.Task, data: scenes.Scenes, workdir: str, files: Sequence[str]
) -> None:
    """Writes two pictures below `workdir`/predict for each picture file, and prints where.

    NAME.png is the picture in the colours of its classes, with a legend; NAME_mask.png holds their numbers.
    """
    places = rundir.prediction_paths(workdir, files)
    pictures = [images.read(file, scenes.CHANNELS) for file in files]
    outputs = trainer.predict(config, task, data, workdir, data.examples(pictures))
    if not processes.is_main():
        return
    for file, picture, mask, place in zip(files, pictures, outputs["mask"], places, strict=True):
        place.parent.mkdir(exist_ok=True)
        mask = data.in_picture(mask, picture)
        drawing.overlay(picture, mask, data.class_names, data.colours).save(f"{place}.png")
        Image.fromarray(mask).save(f"{place}_mask.png")
        print(f"{file}: {place}.png")


if __name__ == "__main__":
    cli.run(main)
