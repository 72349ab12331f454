"""Every notebook runs from top to bottom without a screen, at the smoke size, and is kept without outputs."""

import json

import nbclient
import nbformat
import pytest

from tests.experiments.conftest import ROOT

NOTEBOOKS = sorted(ROOT.glob("experiments/*/*.ipynb"))
each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: f"{path.parent.name}-{path.stem}")


def shown(cell):
    """What the outputs of a cell are: "image/png" for an image, "stdout" for text that is printed."""
    outputs = cell.get("outputs", ())
    return [kind for output in outputs for kind in (*output.get("data", {}), output.get("name"))]


@pytest.mark.long
@each
def test_it_runs_from_top_to_bottom(path, house, monkeypatch):
    for name, value in (house.env | {"TESSERA_VARIANT": "smoke"}).items():
        monkeypatch.setenv(name, value)
    notebook = nbformat.read(path, as_version=4)
    folder = house.root / path.parent.relative_to(ROOT)
    nbclient.NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    ).execute()
    results = list(house.root.glob("runs/*/result.json"))
    assert results and all(json.loads(result.read_text())["metrics"] for result in results)
    kinds = [kind for cell in notebook.cells for kind in shown(cell)]
    assert "image/png" in kinds  # the curves
    assert {"image/png", "stdout"} & set(shown(notebook.cells[-1]))  # some predictions, as images or as text


@each
def test_it_is_kept_without_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.id for cell in code if cell.outputs or cell.execution_count] == []


def test_every_experiment_that_trains_has_one():
    found = {path.parent.name for path in NOTEBOOKS if path.name == "reproduce.ipynb"}
    assert found == {path.parent.name for path in ROOT.glob("configs/*/*.py")}
