"""Configs: a file, a variant and overrides become one complete, checked and locked ConfigDict.

A config file defines `VARIANTS`, `get_config(variant="full")` and `RESULT`, and says only what matters there. Its
experiment's `main.py` defines `defaults(config)`: every key that a config of the experiment may hold, with its
default. So no key can be set that nothing knows, every key can be overridden on the command line, and a key added
later changes no digest.
"""

import ast
import copy
import dataclasses
import difflib
import hashlib
import importlib
import importlib.util
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from ml_collections import ConfigDict

from research.spec import FieldError, Spec
from research.spec.fields import info, infos

# What may change in the middle of a run, and what a result does not depend on.
_RUN_FIELDS = (
    r"mesh\..*|train\.(log|eval|checkpoint)_every|train\.(keep_(last|best)|profile)"
    r"|data\.(dir|cache|eval_buckets|workers|prefetch)"
)
_MAY_DIFFER_ON_RESUME = re.compile(_RUN_FIELDS + r"|train\.steps|source\..*")
# How a trained model is asked: what evaluation and prediction, which write nothing, may do in another way.
_MAY_DIFFER_IN_USE = re.compile(
    r"task\.(decoder|max_decode_length|beam_size|length_penalty|early_stopping|num_return|temperature|top_k|top_p)"
    r"|task\.(threshold|flip_average|groups|score_threshold|nms_iou|candidates|max_detections|shown_from)"
    r"|train\.(eval_batch_size|select)|data\.(truncate(_source)?|long_sounds)"
)
_NOT_IN_DIGEST = re.compile(_RUN_FIELDS + r"|seed|source\..*")
_WITHOUT_DEFAULT = ("model",)  # a config says which of several models it has
# Sizes that a config file gives to fit others of its own. Where only one of those is overridden, they keep their ratio
# to it, so that evaluation never sees the middle of larger images in silence. 0 stands for the size that is followed.
_FOLLOWING = {
    "data.resize": ("data.image_size",),
    "data.eval_size": ("data.resize", "data.image_size"),
    "model.image_size": ("data.image_size",),
}


@dataclasses.dataclass(frozen=True)
class Source:
    """Where a config came from: enough to load it again and to write the command that did."""

    file: str
    variant: str
    overrides: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str, overrides: Sequence[str] = ()) -> "Source":
        """`configs/image_classification/digits_vit.py:cpu`; without a variant it is `full`."""
        file, _, variant = text.partition(":")
        return cls(file, variant or "full", tuple(overrides))

    @property
    def experiment(self) -> str:
        """The folder of the config file, which is the name of its experiment."""
        return Path(self.file).resolve().parent.name


def load_file(file: str) -> ModuleType:
    """The module of a config file. Raises ValueError when there is none, or when it is no config."""
    path = Path(file)
    if not path.is_file():
        raise ValueError(f"config file {file!r} does not exist; {_nearest_files(file)}")
    if path.suffix != ".py":
        raise ValueError(f"config file {file!r} is no Python file; a config ends in .py")
    spec = importlib.util.spec_from_file_location(f"config_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name in ("VARIANTS", "RESULT", "get_config"):
        if not hasattr(module, name):
            raise ValueError(f"config file {file!r} does not define {name}; see research/config.py")
    return module


def _nearest_files(file: str, count: int = 3) -> str:
    """The config files whose paths are most like `file`, for a message."""
    known = sorted(str(other) for other in Path("configs").glob("*/*.py"))
    if not known:
        return f"there is none below configs/ in {Path.cwd()}, and commands run in the root of the repository"
    likeness = lambda other: difflib.SequenceMatcher(None, Path(other).name, Path(file).name).ratio()
    near = sorted(known, key=likeness, reverse=True)[:count]
    more = f" and {len(known) - count} more, see tessera show --list" if len(known) > count else ""
    return f"known: {', '.join(near)}{more}"


def experiment_module(source: Source, experiment: str = "") -> ModuleType:
    """`experiments/<experiment>/main.py` of a config; of the experiment that its folder names, unless one is given."""
    experiment = experiment or source.experiment
    name = f"experiments.{experiment}.main"
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if not name.startswith(error.name or "-"):
            raise
        raise ValueError(
            f"config {source.file!r} belongs to the experiment {experiment!r} by its folder, "
            f"but there is no experiments/{experiment}/main.py"
        ) from None


def of_run(content: Mapping[str, Any], overrides: Sequence[str] = ()) -> ConfigDict:
    """The config of a run directory, from the content of its config.json, with `overrides`; no config file is read.

    Raises ValueError as `resolve` does, and for content that is no config.
    """
    where = content.get("source")
    if not isinstance(where, Mapping) or not {"experiment", "file", "variant", "overrides", "digest"} <= where.keys():
        raise ValueError("config.json of the run holds no source; name its config with --config=FILE[:VARIANT]")
    raw = plain({key: value for key, value in content.items() if key != "source"})
    source = Source(where["file"], where["variant"], (*where["overrides"], *overrides))
    config = complete(raw, experiment_module(source, where["experiment"]).defaults, overrides).values
    return ConfigDict(config | {"source": {**plain(where), "overrides": source.overrides}}).lock()


@dataclasses.dataclass(frozen=True)
class Resolved:
    """The complete values of a config, the defaults of the same fields, and the specs of the groups that have one."""

    values: dict[str, Any]
    defaults: dict[str, Any]
    specs: dict[str, type[Spec]]


def resolve(source: Source) -> Resolved:
    """What a config file, a variant and overrides make together.

    Raises ValueError, in one line, for an unknown file, variant or field, and for a value of the wrong type or out of
    its range.
    """
    module = load_file(source.file)
    if source.variant not in module.VARIANTS:
        known = ", ".join(module.VARIANTS)
        raise ValueError(f"unknown variant {source.variant!r} of {source.file}; choose from {known}")
    raw = plain(module.get_config(source.variant))
    return complete(raw, experiment_module(source).defaults, source.overrides)


def load(file: str, variant: str = "full", overrides: Sequence[str] = ()) -> ConfigDict:
    """The complete, locked config of a file, with overrides such as `train.steps=100`. Raises as `resolve` does."""
    source = Source(file, variant, tuple(overrides))
    resolved = resolve(source)
    config = resolved.values | {
        "source": {
            "experiment": source.experiment,
            "file": file,
            "variant": variant,
            "overrides": source.overrides,
            "digest": _digest(resolved.values, resolved.defaults),
        }
    }
    return ConfigDict(config).lock()


def complete(raw: dict, defaults: Callable[[ConfigDict], dict], overrides: Sequence[str] = ()) -> Resolved:
    """`raw` with every missing key at its default and with the overrides applied, see `resolve`.

    `defaults` is a function of the config, since a model's or an optimizer's keys depend on its name; a name given as
    an override therefore acts before the other overrides.
    """
    parsed = [_parse_override(text) for text in overrides]
    names = [override for override in parsed if override[0][-1] == "name"]
    for (group, *rest), text in names:
        if rest == ["name"] and isinstance(raw.setdefault(group, {}), dict):
            raw[group]["name"] = text
    known, specs = _declared(defaults(ConfigDict(raw)), raw)
    config = _fill(raw, known, "")
    before = flat(config)
    for path, text in parsed:
        _override(config, path, text)
    _follow(config, before, {".".join(path) for path, _ in parsed})
    for group, cls in specs.items():
        config[group] = _checked(cls, config[group], group)
    if not 0 <= config.get("seed", 0) < 2**32:
        raise ValueError(f"config.seed={config['seed']} must be at least 0 and less than 2**32")
    return Resolved(config, known, specs)


def _declared(known: Mapping[str, Any], raw: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, type[Spec]]]:
    """The defaults of every group as plain values, and the spec of each group that has one.

    A group is declared by a spec, or by specs of which its `name` chooses one: the first unless the config says so.
    """
    plain_defaults, specs = dict(known), {}
    for group, declared in known.items():
        chosen = {}
        if isinstance(declared, Mapping) and declared and all(isinstance(each, type) for each in declared.values()):
            given, first = raw.get(group), "" if group in _WITHOUT_DEFAULT else next(iter(declared))
            name = given.get("name", first) if isinstance(given, Mapping) else first
            declared, chosen = choose(declared, name, f"{group}.name"), {"name": first}
        if isinstance(declared, type) and issubclass(declared, Spec):
            specs[group] = declared
            plain_defaults[group] = chosen | {each.name: each.default for each in infos(declared)}
    return plain_defaults, specs


def _checked(cls: type[Spec], values: Mapping[str, Any], group: str) -> dict[str, Any]:
    """The values of a group in the types that its spec declares. Raises ValueError for one that it does not accept."""
    name = {key: values[key] for key in values if key == "name" and info(cls, key) is None}
    try:
        spec = cls(**{key: value for key, value in values.items() if key not in name})
    except FieldError as error:
        raise ValueError(f"config.{error.below(group)}") from None
    return name | {each.name: getattr(spec, each.name) for each in infos(cls)}


def plain(config: ConfigDict | Mapping) -> dict:
    """Nested plain dicts with tuples for lists, as JSON and comparisons want them."""
    if isinstance(config, ConfigDict):
        config = config.to_dict()
    return {key: _plain(value) for key, value in config.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return plain(value)
    return tuple(_plain(item) for item in value) if isinstance(value, list | tuple) else value


def choose(table: Mapping[str, Any], name: str, field: str) -> Any:
    """`table[name]`, or a ValueError that names the field and what it accepts."""
    if name not in table:
        raise ValueError(f"config.{field}={name!r} is unknown; choose from {', '.join(sorted(table))}")
    return table[name]


def _fill(raw: Mapping, known: Mapping, where: str) -> dict:
    for key in raw:
        if key not in known:
            raise ValueError(f"unknown config field {where + key!r}; known there: {', '.join(known)}")
    result = {}
    for key, default in known.items():
        if key not in raw:
            result[key] = copy.deepcopy(default)
        elif isinstance(default, Mapping):
            if not isinstance(raw[key], Mapping):
                raise ValueError(f"config.{where}{key}={raw[key]!r} must be a group of fields: {', '.join(default)}")
            result[key] = _fill(raw[key], default, f"{where}{key}.")
        else:
            result[key] = _cast(raw[key], default, where + key)
    return result


def _cast(value: Any, default: Any, field: str) -> Any:
    """`value` in the type of `default`, items included; an int may stand for a float, a list for a tuple."""
    if isinstance(value, list):
        value = tuple(value)
    if isinstance(value, tuple) and isinstance(default, tuple) and len({type(item) for item in default}) == 1:
        return tuple(_cast(item, default[0], field) for item in value)
    if default is None or (type(value) is type(default)):
        return value
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    raise ValueError(f"config.{field}={value!r} is a {type(value).__name__}; it must be a {type(default).__name__}")


def _parse_override(text: str) -> tuple[list[str], str]:
    path, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"override {text!r} has no value; write --config.{path}=VALUE")
    return path.split("."), value


def _override(config: dict, path: list[str], text: str) -> None:
    group = config
    for depth, key in enumerate(path):
        if not isinstance(group, dict) or key not in group:
            known = ", ".join(group) if isinstance(group, dict) else "no fields"
            raise ValueError(
                f"unknown config field {'.'.join(path)!r}; known in {'.'.join(path[:depth]) or 'config'}: {known}"
            )
        if depth < len(path) - 1:
            group = group[key]
    key, field = path[-1], ".".join(path)
    if isinstance(group[key], dict):
        raise ValueError(f"config.{field} is a group; set one of its fields: {', '.join(group[key])}")
    if isinstance(group[key], str):
        group[key] = text
        return
    try:
        value = ast.literal_eval({"true": "True", "false": "False"}.get(text.lower(), text))
    except (ValueError, SyntaxError):
        value = text
    group[key] = _cast(value, group[key], field)


def _follow(config: dict, before: Mapping[str, Any], overridden: set[str]) -> None:
    """Keeps the ratios of _FOLLOWING, as they were in the flat config `before`, in what was not `overridden` itself."""
    now = dict(before) | {field: value for field, value in flat(config).items() if field in overridden}
    for field, leaders in _FOLLOWING.items():
        leader = next((name for name in leaders if _is_size(before.get(name))), None)
        if leader is None or field in overridden or not _is_size(before.get(field)) or type(now[leader]) is not int:
            continue
        group, key = field.split(".")
        if group == "model" and not now[leader]:  # the size is that of the data, which is not known here
            continue
        now[field] = round(before[field] * now[leader] / before[leader])
        config[group][key] = now[field]


def _is_size(value: Any) -> bool:
    return type(value) is int and value > 0


def flat(config: Mapping, prefix: str = "") -> dict[str, Any]:
    """`{"train.steps": 100, ...}` of a nested config."""
    result = {}
    for key, value in plain(config).items():
        result |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return result


def _digest(config: Mapping, defaults: Mapping) -> str:
    """12 hex digits over what a result depends on.

    Left out: the seed (results over several seeds belong together), mesh, logging and checkpoint fields, and every
    key at its default, so that a key added later does not make old results look stale.
    """
    default = flat(defaults)
    said = {
        key: value
        for key, value in flat(config).items()
        if not _NOT_IN_DIGEST.fullmatch(key) and (key not in default or default[key] != value)
    }
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:12]


def differences(old: Mapping, new: Mapping, in_use: bool = False) -> tuple[list[str], list[str]]:
    """Two lists of `field: old -> new` lines: those that a resumed run may show, and those that it must not.

    With `in_use`, a trained run is only evaluated or asked. A field that only one of them has is no difference where
    their digests are equal: it came with a newer version, and is at its default.
    """
    may_differ = lambda key: _MAY_DIFFER_ON_RESUME.fullmatch(key) or (in_use and _MAY_DIFFER_IN_USE.fullmatch(key))
    before, after = flat(json.loads(json.dumps(plain(old)))), flat(json.loads(json.dumps(plain(new))))
    digests = before.get("source.digest"), after.get("source.digest")
    keys = before.keys() & after.keys() if digests[0] == digests[1] is not None else before.keys() | after.keys()
    allowed, refused = [], []
    for key in sorted(keys):
        if key not in before or key not in after or before[key] != after[key]:
            line = f"{key}: {before.get(key, 'absent')} -> {after.get(key, 'absent')}"
            (allowed if may_differ(key) else refused).append(line)
    return allowed, refused


def result_spec(file: str, variant: str = "full") -> dict[str, Any]:
    """The `RESULT` of a config file for one variant: its main metric, the trivial floor and the published reference.

    A key of `RESULT` that is a variant's name holds what differs for it.
    """
    module = load_file(file)
    shared = {key: value for key, value in module.RESULT.items() if key not in module.VARIANTS}
    return shared | module.RESULT.get(variant, {})
