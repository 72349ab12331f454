"""Face recognition: train, evaluate or use a model that embeds images of faces. See README.md."""

from research import huge_pages, interrupt
from research.train import preemption

if __name__ == "__main__":
    huge_pages.enable()
    preemption.exit_on_sigterm()  # before the slow imports, so that SIGTERM always means 75
    interrupt.end_on_interrupt()

from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.face_recognition.experiment import FaceRecognition
from research import predicting
from research.cli import experiment, experiments
from research.data.images import faces as faces_data
from research.data.images import files as image_files
from research.tasks import classification, faces
from research.train import trainer


def main(
    config: FaceRecognition, workdir: str, mode: str, inputs: Sequence[str] = (), out: str = ""
) -> dict[str, Any] | None:
    """Runs one mode; `inputs` of `predict` are as in predicting.inputs, the first image is compared with the others."""
    task, data = config.build(predicting.known(mode, workdir))
    if mode == "predict":
        return show_comparisons(config, task, data, workdir, inputs, out)
    return trainer.run(mode, config, task, data, workdir, experiments.load_weights)


def show_comparisons(
    config: FaceRecognition,
    task: faces.FaceTask,
    data: faces_data.FaceDataset,
    workdir: str,
    inputs: Sequence[str],
    out: str,
):
    """Prints for each image file after the first its similarity to the first, and whether both show the same person.

    Raises ValueError for fewer than two files, and if the first cannot be read.
    """
    named = predicting.files(inputs, image_files.suffixes(), "images")
    if len(named) < 2:
        raise ValueError(f"--mode=predict compares images: at least two files are needed, not {len(named)}")
    reference = named[0].name
    pixels = data.read(reference)
    with predicting.Asking(config, task, data, workdir, out) as asking:
        for number, (files, arrays) in enumerate(asking.batches(named[1:], data.read)):
            threshold = _threshold(task, asking.predictor, workdir)
            outputs = asking.outputs(classification.unlabelled(np.stack([pixels, *arrays])))
            first, *embeddings = outputs["embedding"]
            if number == 0:
                asking.keep({"input": reference, "embedding": first.tolist()})
            for file, embedding in zip(files, embeddings, strict=True):
                similarity = float(embedding @ first)
                verdict = "the same person" if similarity >= threshold else "two people"
                record = {"input": file, "similarity": similarity, "threshold": threshold, "verdict": verdict}
                line = f"{reference} and {file}: {verdict} (similarity {similarity:.3f}, threshold {threshold:.3f})"
                asking.answer(line, record | {"embedding": embedding.tolist()})


def _threshold(task: faces.FaceTask, predictor: trainer.Predictor, workdir: str) -> float:
    """The similarity from which two images count as the same person. Raises ValueError if none is known."""
    # By default the best one on the validation pairs; only an evaluated checkpoint holds it.
    threshold = task.spec.threshold or predictor.validation.get("validation/threshold")
    if threshold is None:
        raise ValueError(
            f"checkpoint {predictor.step} of {workdir} holds no threshold of validation pairs; set one, such as "
            "--config.task.threshold=0.5"
        )
    return threshold


if __name__ == "__main__":
    experiment.run(main)
