"""Face recognition: train, evaluate or use embeddings of faces on pictures of people. See README.md."""

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
from research.data import faces as faces_data
from research.data.spec import FaceDataSpec
from research.interop import start
from research.models import backbones
from research.models.faces import FaceModel
from research.parallel import processes
from research.report import roc
from research.tasks import classification, faces
from research.train import trainer


def defaults(config: Any) -> dict[str, Any]:
    """Every field that a config of this experiment may set, with its default."""
    return trainer.defaults(config) | {
        "data": FaceDataSpec,
        "model": backbones.specs(FaceModel),
        "task": faces.FaceSpec,
    }


def build(config: Any) -> tuple[faces.Task, faces_data.Faces]:
    """The task and the data of a config; nothing is read or computed yet."""
    spec = faces.FaceSpec(**config_lib.plain(config.task))
    data = faces_data.load(FaceDataSpec(**config_lib.plain(config.data)), gallery="identification" in spec.metrics)
    fields = {key: value for key, value in config_lib.plain(config.model).items() if key != "name"}
    dtypes = {"dtype": config.precision.compute, "param_dtype": config.precision.params}
    model = backbones.make(FaceModel, config.model.name, fields, data.num_classes, **dtypes)
    return faces.Task(model, data.image_shape, data.mean, data.std, spec), data


def main(config: Any, workdir: str, mode: str, inputs: Sequence[str] = ()) -> dict[str, Any] | None:
    """Runs one mode; `inputs` are the picture files of `predict`, the first of which is compared with the others."""
    task, data = build(config)
    if mode == "predict":
        return show_comparisons(config, task, data, workdir, inputs)
    plot = roc.draw if "verification" in task.spec.metrics else None
    return trainer.run(mode, config, task, data, workdir, start.find, plot)


def show_comparisons(config: Any, task: faces.Task, data: faces_data.Faces, workdir: str, files: Sequence[str]):
    """Prints, for each picture file after the first, how similar it is to the first and whether both show one person.

    Raises ValueError for less than two files.
    """
    if len(files) < 2:
        raise ValueError(f"--mode=predict compares pictures: two files at least are needed, not {len(files)}")
    examples = classification.unlabelled(np.stack([data.read(file) for file in files]))
    predictor = trainer.Predictor(config, task, data, workdir)
    # The one that was best on the validation pairs; only an evaluated checkpoint holds it.
    threshold = task.spec.threshold or predictor.validation.get("validation/threshold")
    if threshold is None:
        raise ValueError(
            f"checkpoint {predictor.step} of {workdir} holds no threshold of validation pairs; give one, such as "
            "--config.task.threshold=0.5"
        )
    embeddings = predictor(examples)["embedding"]
    if not processes.is_main():
        return
    for file, similarity in zip(files[1:], embeddings[1:] @ embeddings[0], strict=True):
        verdict = "the same person" if similarity >= threshold else "two people"
        print(f"{files[0]} and {file}: {verdict} (similarity {similarity:.3f}, threshold {threshold:.3f})")


if __name__ == "__main__":
    cli.run(main)
