"""The structure that docs/architecture.md describes: import layers, no TensorFlow, file sizes."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

from tests import words

ROOT = Path(__file__).parents[1]
# From the ground up. `interrupt`, `numerics`, `files`, `config`, `command`, `text2text` are modules, others packages.
FLOORS = (
    "spec",
    "interrupt",
    "huge_pages",
    "numerics",
    "files",
    "config",
    "parallel",
    "measure",
    "command",
    "checkpoint",
    "models",
    "metrics",
    "tasks",
    "data",
    "tracking",
    "train",
    "plan",
    "report",
    "sweep",
    "trust",
    "baselines",
    "interop",
    "predicting",
    "cli",
    "text2text",
)
FILES = sorted(path for top in ("research", "experiments", "configs", "tests") for path in (ROOT / top).rglob("*.py"))


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def floor(name):
    """The floor of `research.train.loop` is that of `train`; None outside the library.

    What is run by name is a command, and stands with the others, wherever it lies.
    """
    parts = name.split(".")
    if parts[0] == "research" and parts[-1] == "__main__":
        return FLOORS.index("cli")
    return FLOORS.index(parts[1]) if parts[0] == "research" and len(parts) > 1 and parts[1] in FLOORS else None


def test_lower_floors_never_import_higher_ones():
    wrong = []
    for path in FILES:
        here = floor(".".join(path.relative_to(ROOT).with_suffix("").parts))
        for name in imports(path):
            there = floor(name)
            if here is not None and (name.startswith(("experiments", "tests")) or (there is not None and there > here)):
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert wrong == []


def imported_by_name(path):
    """The beginnings of the names that a file imports at run time."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__"):
            yield ast.unparse(node.args[0]).lstrip("f'\"")


def test_nothing_below_the_command_line_imports_experiments_by_name():
    """Only `research/cli` resolves the name of an experiment; everything below receives the class as an argument."""
    below = [path for path in FILES if path.is_relative_to(ROOT / "research") and path.parent.name != "cli"]
    assert [path for path in below if any(name.startswith("experiments") for name in imported_by_name(path))] == []
    # The one file that imports what a variable names looks up builders of data sets, the library's and those of TFDS.
    assert {path.name for path in below if list(imported_by_name(path))} == {"sources.py"}


@pytest.mark.parametrize("name", ["research.train.trainer", "research.cli", "research.config"])
def test_floors_are_recognised(name):
    assert floor(name) == FLOORS.index(name.split(".")[1])


def test_nothing_imports_tensorflow():
    assert [path for path in FILES if any(name.split(".")[0] == "tensorflow" for name in imports(path))] == []


def test_types_are_checked_without_the_extras():
    """`make lint` runs where only the extra [test] is installed; imports of other extras are not resolved there."""
    extras = "torch|transformers|safetensors|flatbuffers|gcsfs|dp_accounting|wandb|mlflow|jax2onnx|onnx|onnxruntime"
    optional = re.compile(rf"^\s+(?:import|from) (?:{extras})\b.*")
    lines = [
        line
        for path in FILES
        if path.is_relative_to(ROOT / "research")
        for line in path.read_text().splitlines()
        if optional.match(line)
    ]
    assert lines and all("# pyright: ignore[reportMissingImports]" in line for line in lines)


def test_dense_layers_of_models_are_ours():
    """Low-rank updates act in `models/dense.py`; beside the kernel of another dense layer they would do nothing."""
    models = [path for path in FILES if path.is_relative_to(ROOT / "research" / "models")]
    attributes = lambda path: {
        ast.unparse(n) for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Attribute)
    }
    assert models and not [path for path in models if attributes(path) & {"nn.Dense", "nn.DenseGeneral"}]


def test_no_file_is_over_400_lines():
    assert [path for path in FILES if len(path.read_text().splitlines()) > 400] == []


def test_lock_file_holds_names_and_versions_only():
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(line.count("==") == 1 and "://" not in line and "@" not in line for line in lines)


def test_shell_scripts_parse():
    for path in [ROOT / ".ci" / "run", *(ROOT / "tpu_scripts").glob("*.sh")]:
        subprocess.run(["bash", "-n", path], check=True)


def test_contracts_know_arrays_alone():
    """Those who meet a contract need no Flax, Orbax or Grain for it, and nothing in it goes unchecked."""
    path = ROOT / "research" / "spec" / "contracts.py"
    known = {"__future__", "collections", "dataclasses", "jax", "numpy", "pathlib", "typing"}
    assert {name.split(".")[0] for name in imports(path)} <= known
    assert "Any" not in {node.id for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Name)}


def test_private_words_are_found_with_their_standard_term():
    text = "ok\na likest image\nin_places = 1  # mended\nplaceholder, amend\npictures  # words: allow\nlaid_over = 2\n"
    assert words.found(text, "a.py") == [
        "a.py:2: 'likest'; write nearest, most similar",  # words: allow
        "a.py:3: 'mended'; write fix",  # words: allow
        "a.py:3: 'places'; write positions, locations, indices",  # words: allow
        "a.py:6: 'laid_over'; write interpolated",  # words: allow
    ]


def test_the_architecture_page_lists_the_packages_from_the_highest_floor_down():
    rows = re.findall(r"^\| `research/(\w+)(?:/|\.py)`", (ROOT / "docs/architecture.md").read_text(), re.MULTILINE)
    listed = [FLOORS.index(name) for name in rows]
    assert listed == sorted(listed, reverse=True)
    packages = {path.parent.name for path in ROOT.glob("research/*/__init__.py")}
    assert packages <= set(rows)
