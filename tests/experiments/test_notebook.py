"""Every notebook runs from top to bottom without a screen, at the smoke size, and is kept without outputs."""

import json

import nbclient
import nbformat
import pytest

from tests.experiments.conftest import ROOT

NOTEBOOKS = sorted(ROOT.glob("experiments/*/reproduce.ipynb"))
each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.parent.name)


def pictures(notebook):
    """How many pictures the cells have shown."""
    outputs = (output for cell in notebook.cells for output in cell.get("outputs", ()))
    return sum("image/png" in output.get("data", {}) for output in outputs)


@pytest.mark.long
@each
def test_it_runs_from_top_to_bottom(path, house, monkeypatch):
    for name, value in (house.env | {"TESSERA_VARIANT": "smoke", "XLA_FLAGS": ""}).items():
        monkeypatch.setenv(name, value)
    notebook = nbformat.read(path, as_version=4)
    folder = house.root / path.parent.relative_to(ROOT)
    nbclient.NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    ).execute()
    results = list(house.root.glob("runs/*/result.json"))
    assert results and all(json.loads(result.read_text())["metrics"] for result in results)
    assert pictures(notebook) >= 2  # the curves and some predictions


@each
def test_it_is_kept_without_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.id for cell in code if cell.outputs or cell.execution_count] == []


def test_image_classification_has_one():
    assert ROOT / "experiments/image_classification/reproduce.ipynb" in NOTEBOOKS
