"""`tessera show`: the resolved fields of a config, its parameters, or a list of configs and data sets."""

import ast
import math
import re
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax

from research import config as config_lib
from research.parallel import mesh as mesh_lib
from research.parallel import sharding
from research.spec import Spec
from research.spec.fields import FieldInfo, info
from research.spec.serial import leaves
from research.train import lora, program, settings

_CHANGED = "*"
# In the order of reading.
_GROUPS = (
    "seed",
    "data",
    "model",
    "task",
    "optimizer",
    "lora",
    "train",
    "mesh",
    "precision",
)
_LIBRARY = Path(__file__).parents[2]


def fields(source: config_lib.Source, docs: bool = False) -> Iterator[str]:
    """Yields a line for every field of a config: `* train.steps  2500  (1000)`.

    A `*` marks a value that is not the default, which follows in parentheses. With `docs`, each line ends with the
    meaning, the range and the role of the field.
    """
    config = config_lib.load(source.file, source.variant, source.overrides)
    yield f"{source.file}:{source.variant}  experiment {source.experiment}, digest {config.source.digest}"
    declared = leaves(config)
    values = {name: value for name, value in config_lib.flat(config).items() if not name.startswith("source.")}
    width = max(map(len, values))
    rank = lambda name: _GROUPS.index(name) if name in _GROUPS else len(_GROUPS)
    for name in sorted(values, key=lambda name: rank(name.split(".")[0])):
        leaf, value = declared.get(name), values[name]
        # A value without a declared field is the tag of a union's member.
        default = leaf.info.default if leaf else _default_tag(type(config), name.split(".")[0])
        line = f"{_CHANGED if value != default else ' '} {name:{width}}  {value!r}"
        line += f"  ({default!r})" if value != default else ""
        if docs and leaf:
            line += f"  # {_meaning(leaf.info)}"
        yield line


def _default_tag(cls: type[config_lib.Config], group: str) -> str:
    """The tag of the default spec of a group."""
    declared = info(cls, group)
    assert declared is not None and isinstance(declared.default, Spec)
    return declared.default.tag


def _meaning(field: FieldInfo) -> str:
    """Meaning, range and role of a field, such as `optimizer steps; at least 1 [length]`."""
    text = field.doc
    if field.check is not None:
        for start in ("is unknown; ", "must be ", "must "):
            if field.check.requirement.startswith(start):
                text += f"; {field.check.requirement.removeprefix(start)}"
                break
    return f"{text} [{field.role.value}]"


def parameters(source: config_lib.Source) -> Iterator[str]:
    """A table of the model's parameters: path, shape, logical axes, count and bytes; the totals last.

    Nothing is computed. Raises ValueError if the model of the config cannot be built.
    """
    config = settings.load(source)
    task, _ = config.build()
    sizes = dict.fromkeys(mesh_lib.AXES, 1)
    state = program.abstract_state(config, task, mesh_lib.make_mesh(sizes, jax.devices()[:1]))
    table = lora.with_updates(task.logical_axes, config.lora, state.params)
    rows = [("path", "shape", "axes", "count", "bytes")]
    count = size = 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(state.params):
        name = sharding.path_name(path)
        parts, width = math.prod(leaf.shape), math.prod(leaf.shape) * leaf.dtype.itemsize
        axes = sharding.logical_axes(name, table)
        rows.append((name, "x".join(map(str, leaf.shape)) or "1", " ".join(map(str, axes)), f"{parts:,}", f"{width:,}"))
        count, size = count + parts, size + width
    rows.append(("total", "", "", f"{count:,}", f"{size:,}"))
    yield from _aligned(rows)


def _aligned(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        left = [cell.ljust(width) for cell, width in zip(row[:3], widths[:3], strict=True)]
        right = [cell.rjust(width) for cell, width in zip(row[3:], widths[3:], strict=True)]
        yield "  ".join([*left, *right]).rstrip()


def listing(root: Path) -> Iterator[str]:
    """All configs below `root`/configs with the first lines of their docstrings, then all data sets."""
    files = sorted(root.glob("configs/*/*.py"))
    width = max((len(str(file.relative_to(root))) for file in files), default=0)
    yield "configs" if files else f"configs: none in {root}, which is not the root of the repository"
    for file in files:
        yield f"  {file.relative_to(root)!s:{width}}  {_shortened(_docstring(_parsed(file)))}"
    from research.data import sources

    yield "data sets (and those of the TFDS catalogue, and your own as folder:PATH)"
    width = max(map(len, sources.OWN))
    for name, (module, builder) in sorted(sources.OWN.items()):
        tree = _parsed(_LIBRARY / (module.replace(".", "/") + ".py"))
        (declared,) = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == builder)
        yield f"  {name:{width}}  {_shortened(_first_sentence(_docstring(tree)) + ' ' + _docstring(declared))}"


def _parsed(file: Path) -> Any:
    """The syntax tree of a file, without importing it."""
    return ast.parse(file.read_text(encoding="utf-8"))


def _docstring(node: Any) -> str:
    """The first paragraph of a docstring."""
    return " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split())


def _first_sentence(text: str) -> str:
    return re.split(r"(?<=\w\w[.)]) (?=[A-Z])", text)[0]


def _shortened(text: str) -> str:
    return textwrap.shorten(text, 150, placeholder=" ...")
