"""The resolved shardings of every shipped full-size config, as files that a review can read.

    python -m tests.parallel.golden

writes them anew, one a config and full-size variant, for a mesh of data=2 x fsdp=16 x tensor=2 (data=4 x fsdp=16 for
a model that tensor parallelism does nothing for).
"""

import json
from pathlib import Path

import jax
from jax.sharding import AbstractMesh, AxisType

from research import config as config_lib
from research.parallel import mesh as mesh_lib
from research.parallel.sharding import path_name
from research.train.program import TrainState, abstract_state

FOLDER = Path(__file__).parent.parent / "golden" / "shardings"
ROOT = FOLDER.parents[2]
FILES = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("configs/*/*.py"))
SMALL = ("cpu", "smoke")
CONFIGS = [
    f"{file}:{variant}"
    for file in FILES
    for variant in config_lib.load_file(str(ROOT / file)).VARIANTS
    if variant not in SMALL
]
MESH = {"data": 2, "fsdp": 16, "tensor": 2, "sequence": 1}
WITHOUT_TENSOR = {"data": 4, "fsdp": 16, "tensor": 1, "sequence": 1}


def place(config: str) -> Path:
    """Where the golden file of `configs/EXPERIMENT/NAME.py:VARIANT` lies; the variant `full` is not named."""
    source = config_lib.Source.parse(config)
    variant = "" if source.variant == "full" else f"_{source.variant}"
    return FOLDER / source.experiment / f"{Path(source.file).stem}{variant}.json"


def describe(leaf: jax.ShapeDtypeStruct) -> str:
    """`24x1024x4096 float32: -, fsdp, tensor`."""
    spec = [*leaf.sharding.spec, *[None] * (leaf.ndim - len(leaf.sharding.spec))]
    axes = ["-" if entry is None else entry if isinstance(entry, str) else "+".join(entry) for entry in spec]
    return f"{'x'.join(map(str, leaf.shape)) or 'scalar'} {leaf.dtype}: {', '.join(axes) or '-'}"


def abstract(config: str, sizes: dict[str, int]) -> TrainState:
    """The state of a full-size config on a mesh that no device belongs to."""
    source = config_lib.Source.parse(str(ROOT / config))
    config = config_lib.load(source.file, source.variant)
    task, _ = config.build()
    mesh = AbstractMesh(tuple(sizes.values()), mesh_lib.AXES, axis_types=(AxisType.Auto,) * len(sizes))
    return abstract_state(config, task, mesh)


def resolved(config: str) -> dict:
    """The mesh and a line for each leaf of the state; a tree that lies as the parameters do is one line."""
    for sizes in (MESH, WITHOUT_TENSOR):
        try:
            state = abstract(config, sizes)
            break
        except ValueError as error:
            if sizes is WITHOUT_TENSOR or "mesh.tensor=2" not in str(error):
                raise
    structure = jax.tree.structure(state.params)
    mirrors = lambda tree: jax.tree.structure(tree) == structure
    lines = {}
    for part in ("params", "mutable", "opt_state", "ema"):
        tree = getattr(state, part)
        stop = None if part == "params" else mirrors
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree, is_leaf=stop):
            name = f"{part}/{path_name(path)}"
            if not mirrors(leaf) or part == "params":
                lines[name] = describe(leaf)
            elif jax.tree.map(describe, leaf) == jax.tree.map(describe, state.params):
                lines[name] = "as params"
            else:
                below = jax.tree_util.tree_leaves_with_path(leaf)
                lines |= {f"{name}/{path_name(path)}": describe(leaf) for path, leaf in below}
    return {"mesh": sizes, "state": lines}


def main() -> None:
    """Writes every golden file, and removes those of configs that are no more."""
    for old in FOLDER.rglob("*.json"):
        old.unlink()
    for config in CONFIGS:
        place(config).parent.mkdir(parents=True, exist_ok=True)
        place(config).write_text(json.dumps(resolved(config), indent=1) + "\n")
        print(place(config).relative_to(ROOT))


if __name__ == "__main__":
    main()
