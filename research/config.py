"""Configs: a file, a variant and overrides become one typed, checked and frozen value.

A config file defines `VARIANTS`, `RESULT`, `EXPERIMENT` (a subclass of Config) and `get_config(variant="full")`, which
gives a ConfigDict or a dict of what differs from the defaults of EXPERIMENT. So no key can be set that nothing knows,
and every key can be overridden on the command line.
"""

import dataclasses
import difflib
import importlib.util
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from ml_collections import ConfigDict

from research.spec import FieldError, Role, Spec, checks, digest, field, override
from research.spec.fields import info, infos, members
from research.spec.overrides import unknown
from research.spec.serial import leaves

# Sizes that a config file gives to fit others of its own. Where only one of those is overridden, they keep their ratio
# to it, so that evaluation never sees the middle of larger images in silence. 0 stands for the size that is followed.
_FOLLOWING = {
    "data.resize": ("data.image_size",),
    "data.eval_size": ("data.resize", "data.image_size"),
    "model.image_size": ("data.image_size",),
}
NAME = "name"  # of the member of a group that is one of several specs, where a config is written as plain values
AnyConfig = TypeVar("AnyConfig", bound="Config")
AnySpec = TypeVar("AnySpec", bound=Spec)


class Source(Spec, tag="source"):
    """Where a config came from: enough to load it again and to write the command that did."""

    experiment: str = field(default="", role=Role.RUNTIME, doc="its name, which is the tag of its class")
    file: str = field(default="", role=Role.RUNTIME, doc="the config file")
    variant: str = field(default="full", role=Role.RUNTIME, doc="one of its VARIANTS")
    overrides: tuple[str, ...] = field(default=(), role=Role.RUNTIME, doc="such as train.steps=100")
    digest: str = field(default="", role=Role.RUNTIME, doc="of all that the result depends on")

    @classmethod
    def parse(cls, text: str, overrides: Sequence[str] = ()) -> "Source":
        """`configs/image_classification/digits_vit.py:cpu`; without a variant it is `full`."""
        file, _, variant = text.partition(":")
        return cls(
            experiment=Path(file).resolve().parent.name,
            file=file,
            variant=variant or "full",
            overrides=tuple(overrides),
        )


class Config(Spec):
    """What every experiment has: a seed, and where the value came from. A subclass adds its groups and `build`."""

    seed: int = field(
        default=0, role=Role.SEED, check=checks.between(0, 2**32 - 1), doc="of parameters, data order and dropout"
    )
    source: Source = field(default=Source(), role=Role.RUNTIME, doc="where this config came from")

    def build(self, known: Any = None) -> tuple[Any, Any]:
        """The task and the data set, or the data that a run has recorded (`known`); nothing is computed yet."""
        raise NotImplementedError(f"{type(self).__name__} builds nothing")


Experiments = Callable[[str], type[Config]]  # the class of the configs of an experiment, by its name


def load_file(file: str) -> ModuleType:
    """The module of a config file. Raises ValueError when there is none, or when it is no config."""
    path = Path(file)
    if not path.is_file():
        raise ValueError(f"config file {file!r} does not exist; {_nearest_files(file)}")
    if path.suffix != ".py":
        raise ValueError(f"config file {file!r} is no Python file; a config ends in .py")
    spec = importlib.util.spec_from_file_location(f"config_{path.stem}", path)
    assert spec is not None and spec.loader is not None  # of every file that ends in .py
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name in ("VARIANTS", "RESULT", "EXPERIMENT", "get_config"):
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


def load(file: str, variant: str = "full", overrides: Sequence[str] = ()) -> Config:
    """The config of a file, a variant and overrides such as `train.steps=100`.

    Raises ValueError, in one line, for an unknown file, variant or field, and for a value of the wrong type or out of
    its range.
    """
    module = load_file(file)
    if variant not in module.VARIANTS:
        raise ValueError(f"unknown variant {variant!r} of {file}; choose from {', '.join(module.VARIANTS)}")
    try:
        raw = plain(module.get_config(variant))
    except FieldError as error:  # of a spec that the file makes itself
        raise ValueError(f"config file {file!r}: {error}") from None
    config = complete(module.EXPERIMENT, raw, overrides)
    source = Source.parse(f"{file}:{variant}", overrides)
    # A config may lie in any folder; the class that it names says which experiment it is of.
    return with_source(config, dataclasses.replace(source, experiment=config.tag or source.experiment))


def of_run(cls: type[AnyConfig], content: Mapping[str, Any], overrides: Sequence[str] = ()) -> AnyConfig:
    """The config of a run directory, from the content of its config.json, with `overrides`; no config file is read.

    Raises ValueError as `load` does, and for content that is no config.
    """
    before = source_of(content)
    raw = {key: value for key, value in content.items() if key != "source"}
    config = complete(cls, raw, overrides)
    source = Source(**{**before, "overrides": (*before["overrides"], *overrides)})
    return with_source(config, source)


def source_of(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """The `source` in the content of a config.json. Raises ValueError where it holds none."""
    where = content.get("source")
    if not isinstance(where, Mapping) or where.keys() != {each.name for each in infos(Source)}:
        raise ValueError("config.json of the run holds no source; name its config with --config=FILE[:VARIANT]")
    return where


def complete(cls: type[AnyConfig], raw: Mapping[str, Any], overrides: Sequence[str] = ()) -> AnyConfig:
    """The config of class `cls` with the plain values `raw`, then with the overrides. Raises ValueError as `load`."""
    try:
        named, words = _named(cls, raw, overrides)
        config = _of_plain(cls, named)
        return override(config, [*words, *_following(config, words)])
    except FieldError as error:
        raise ValueError(f"config.{error}") from None


def with_source(config: AnyConfig, source: Source) -> AnyConfig:
    """The config with another source, and its digest there."""
    return dataclasses.replace(config, source=dataclasses.replace(source, digest=digest(config)))


def _of_plain(cls: type[AnySpec], raw: Mapping[str, Any]) -> AnySpec:
    """A spec from nested plain values; a group that is one of several specs is chosen by its NAME."""
    values: dict[str, Any] = {}
    for name, value in raw.items():
        known = info(cls, name)
        if known is None:
            raise unknown(cls, name)
        options = members(known.annotation)
        if not options:
            values[name] = value
            continue
        if not isinstance(value, Mapping):
            fields = ", ".join(each.name for each in infos(options[0]))
            raise FieldError((name,), f"={value!r} must be a group of fields: {fields}")
        try:
            values[name] = _group(options, value)
        except FieldError as error:
            raise error.below(name) from None
    return cls(**values)


def _group(options: Sequence[type[Spec]], raw: Mapping[str, Any]) -> Spec:
    if len(options) == 1:
        return _of_plain(options[0], raw)
    by_tag = {option.tag: option for option in options}
    tag = raw.get(NAME, options[0].tag)
    if tag not in by_tag:
        raise FieldError((NAME,), f"={tag!r} is unknown; choose from {', '.join(sorted(by_tag))}")
    return _of_plain(by_tag[tag], {key: value for key, value in raw.items() if key != NAME})


def _named(cls: type[Spec], raw: Mapping[str, Any], overrides: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """`raw` with the names that overrides such as `optimizer.name=lion` give to groups, and the other overrides.

    What the config file says of the group stays, unlike with `optimizer=lion`, which begins at the defaults.
    """
    named, others = dict(raw), []
    for word in overrides:
        path, _, text = word.partition("=")
        group, _, last = path.partition(".")
        known = info(cls, group)
        if last == NAME and known is not None and len(members(known.annotation)) > 1:
            named[group] = {**named.get(group, {}), NAME: text}
        else:
            others.append(word)
    return named, others


def _following(config: Config, words: Sequence[str]) -> list[str]:
    """Overrides that keep the ratios of _FOLLOWING in what `words` leave alone."""
    before = flat(config)
    given = dict(word.split("=", 1) for word in words if "=" in word)
    # Longer numbers are refused by the field itself.
    now = before | {name: int(text) for name, text in given.items() if text.isdecimal() and len(text) < 10}
    added = []
    for name, leaders in _FOLLOWING.items():
        leader = next((each for each in leaders if _is_size(before.get(each))), None)
        if leader is None or name in given or not _is_size(before.get(name)) or now[leader] == before[leader]:
            continue
        group = name.split(".")[0]
        if group in given or (group == "model" and not now[leader]):
            continue  # another model, or the size is that of the data, which is not known here
        now[name] = round(before[name] * now[leader] / before[leader])
        added.append(f"{name}={now[name]}")
    return added


def _is_size(value: Any) -> bool:
    return type(value) is int and value > 0


def plain(config: Spec | ConfigDict | Mapping) -> dict:
    """Nested plain dicts with tuples for lists, as JSON and comparisons want them."""
    if isinstance(config, Spec):
        return {each.name: _plain_group(getattr(config, each.name), each.annotation) for each in infos(type(config))}
    if isinstance(config, ConfigDict):
        config = config.to_dict()
    return {key: _plain(value) for key, value in config.items()}


def _plain_group(value: Any, annotation: object) -> Any:
    if not isinstance(value, Spec):
        return value
    return {NAME: value.tag, **plain(value)} if len(members(annotation)) > 1 else plain(value)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping | Spec):
        return plain(value)
    return tuple(_plain(item) for item in value) if isinstance(value, list | tuple) else value


def flat(config: Spec | Mapping, prefix: str = "") -> dict[str, Any]:
    """`{"train.steps": 100, ...}` of a nested config."""
    result = {}
    for key, value in plain(config).items():
        result |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return result


def differences(old: Mapping, new: Config, inference: bool = False) -> tuple[list[str], list[str]]:
    """Two lists of `field: old -> new` lines: those that a resumed run may show, and those that it must not.

    `old` are plain values. With `inference`, a trained run is only evaluated or used. A field that only one of them has
    is no difference where their digests are equal: it came with a newer version, at its `absent` value or of no result.
    """
    roles = {name: leaf.info.role for name, leaf in leaves(new).items()}
    before, after = flat(json.loads(json.dumps(plain(old)))), flat(json.loads(json.dumps(plain(new))))
    digests = before.get("source.digest"), after.get("source.digest")
    keys = before.keys() & after.keys() if digests[0] == digests[1] is not None else before.keys() | after.keys()
    allowed, refused = [], []
    for key in sorted(keys):
        if key not in before or key not in after or before[key] != after[key]:
            line = f"{key}: {before.get(key, 'absent')} -> {after.get(key, 'absent')}"
            role = roles.get(key, Role.RUNTIME if key.startswith("source.") else Role.RESULT)
            (allowed if role.may_differ(inference) else refused).append(line)
    return allowed, refused


def result_spec(file: str, variant: str = "full") -> dict[str, Any]:
    """The `RESULT` of a config file for one variant: its main metric, the trivial floor and the published reference.

    A key of `RESULT` that is a variant's name holds what differs for it.
    """
    module = load_file(file)
    shared = {key: value for key, value in module.RESULT.items() if key not in module.VARIANTS}
    return shared | module.RESULT.get(variant, {})
