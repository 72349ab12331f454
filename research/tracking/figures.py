"""Images of predictions, as RGB arrays that every tracker takes."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Shaped

MOST = 16  # images
_SHOWN_FROM = 0.3  # the score from which boxes are drawn
_COLUMNS = 4
_RIGHT, _WRONG = "#2f7d32", "#c62828"


def rendered(figure: Any) -> Shaped[np.ndarray, "height width 3"]:
    """A matplotlib figure as an RGB image, uint8."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.array(np.asarray(canvas.buffer_rgba())[..., :3])


def of_images(
    batch: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray], lines: Sequence[Mapping[str, Any]]
) -> np.ndarray | None:
    """A grid of the first images of a batch with their predictions; None if the batch holds no images.

    Predicted masks and boxes are drawn onto the images; classes are titles, red where they are wrong. Of a clip, the
    middle frame is shown. `lines` are the records of predictions. Images, outputs and records belong together by their
    `index`, since of a global batch a process holds only its own rows.
    """
    images = batch.get("image")
    if images is None or images.dtype != np.uint8 or images.ndim not in (4, 5):
        return None
    from matplotlib.figure import Figure  # slow to import

    images = images[:, images.shape[1] // 2] if images.ndim == 5 else images
    shown = np.flatnonzero(batch["weight"] > 0)[:MOST]
    by_index = {line["index"]: line for line in lines if "index" in line}
    rows = {int(index): row for row, index in enumerate(outputs["index"])}
    height = -(-len(shown) // _COLUMNS)
    figure = Figure(figsize=(2.2 * _COLUMNS, 2.4 * height), dpi=100, layout="constrained")
    grid = figure.subplots(height, _COLUMNS, squeeze=False).ravel()
    for axes in grid:
        axes.set_axis_off()
    for axes, row in zip(grid, shown, strict=False):
        image = images[row]
        axes.imshow(image if image.shape[-1] == 3 else image[..., 0], cmap="gray", vmin=0, vmax=255)
        index = int(batch["index"][row])
        _draw(axes, outputs, rows[index])
        _title(axes, by_index.get(index, {}))
    return rendered(figure)


def _draw(axes: Any, outputs: Mapping[str, np.ndarray], row: int) -> None:
    """Draws the predicted mask or boxes of an image onto it."""
    from matplotlib.patches import Rectangle

    if "mask" in outputs:
        axes.imshow(outputs["mask"][row], cmap="tab20", vmin=0, vmax=19, alpha=0.5, interpolation="nearest")
    if "boxes" in outputs and "scores" in outputs:
        for (left, top, right, bottom), score in zip(outputs["boxes"][row], outputs["scores"][row], strict=True):
            if score >= _SHOWN_FROM:
                axes.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, color=_WRONG))


def _title(axes: Any, line: Mapping[str, Any]) -> None:
    """The predicted class and, if it is wrong, the true one."""
    if "predicted" in line and "class" in line:
        right = line["predicted"] == line["class"]
        text = str(line["predicted"]) if right else f"{line['predicted']}, not {line['class']}"
        axes.set_title(text[:40], fontsize=8, color=_RIGHT if right else _WRONG)
