"""Object detection: train, evaluate or use an FCOS detector on images with boxes. See README.md."""

from research import huge_pages, interrupt
from research.train import preemption

if __name__ == "__main__":
    huge_pages.enable()
    preemption.exit_on_sigterm()  # before the slow imports, so that SIGTERM always means 75
    interrupt.end_on_interrupt()

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.detection.experiment import Detection
from research import predicting
from research.cli import experiment, experiments
from research.data.images import detection as boxes
from research.data.images import files as image_files
from research.data.images import views
from research.metrics import box_scores
from research.parallel import processes
from research.report import drawing
from research.tasks import detection
from research.train import rundir, trainer


def main(
    config: Detection, workdir: str, mode: str, inputs: Sequence[str] = (), out: str = ""
) -> dict[str, Any] | None:
    """Runs one mode; `inputs` of `predict` are image files, folders of them, patterns or `-`, see predicting.inputs."""
    task, data = config.build(predicting.known(mode, workdir))
    if mode == "predict":
        return show_predictions(config, task, data, workdir, inputs, out)
    return trainer.run(mode, config, task, data, workdir, experiments.load_weights)


def show_predictions(
    config: Detection,
    task: detection.DetectionTask,
    data: boxes.DetectionDataset,
    workdir: str,
    inputs: Sequence[str],
    out: str,
) -> None:
    """Writes NAME.png with drawn boxes and NAME.json below `workdir`/predict for each image file, and prints the paths.

    Both contain the boxes with a score of at least the task's `display_threshold`; in JSON as left, top, right, bottom
    in pixels.
    """
    folder = rundir.RunDirectory(workdir)
    named = predicting.files(inputs, image_files.suffixes(), "images")
    paths = rundir.prediction_paths(folder, [each.name for each in named])
    with predicting.Asking(config, task, data, workdir, out) as asking:
        for files, images in asking.batches(named, lambda file: image_files.read(file, boxes.CHANNELS)):
            outputs = asking.outputs(data.examples(images))
            if not processes.is_main():
                continue
            for row, (file, image) in enumerate(zip(files, images, strict=True)):
                shown = outputs["scores"][row] >= max(task.spec.display_threshold, 1e-9)  # 0: no box
                found = {name: outputs[name][row][shown] for name in ("boxes", "labels", "scores")}
                found["boxes"] = data.in_image(found["boxes"], views.size_of(image))
                content = box_scores.as_json(found, data.class_names)
                paths[file].parent.mkdir(exist_ok=True)
                drawing.boxes(image, *found.values(), data.class_names).save(f"{paths[file]}.png")
                saved = {"image": str(file), **content}
                Path(f"{paths[file]}.json").write_text(json.dumps(saved, indent=1) + "\n")
                said = f"{workdir}/predict/{paths[file].name}"
                asking.answer(f"{file}: {shown.sum()} boxes in {said}.png and {said}.json", {"input": file} | content)
        folder.push()


if __name__ == "__main__":
    experiment.run(main)
