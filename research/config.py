"""Configs: a file, a variant and overrides become one typed, checked and frozen value.

A config file defines `VARIANTS`, `RESULT`, `EXPERIMENT` (a subclass of Config) and `get_config(variant="full")`, which
returns a ConfigDict or a dict of what differs from the defaults of EXPERIMENT. Unknown keys are therefore errors, and
every key can be overridden on the command line.
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

# Sizes that depend on others (their leaders, in order of precedence). If only a leader is overridden, the size keeps
# its ratio to it; otherwise evaluation would silently see a centre crop of larger images. 0: equal to the leader.
_FOLLOWING = {
    "data.resize": ("data.image_size",),
    "data.eval_size": ("data.resize", "data.image_size"),
    "model.image_size": ("data.image_size",),
}
NAME = "name"  # in plain values, the key of a group's tag if the group is a union of specs
AnyConfig = TypeVar("AnyConfig", bound="Config")
AnySpec = TypeVar("AnySpec", bound=Spec)


class Source(Spec, tag="source"):
    """Where a config came from: enough to load it again and to reproduce its command."""

    experiment: str = field(default="", role=Role.RUNTIME, doc="name of the experiment, the tag of its config class")
    file: str = field(default="", role=Role.RUNTIME, doc="the config file")
    variant: str = field(default="full", role=Role.RUNTIME, doc="one of the file's VARIANTS")
    overrides: tuple[str, ...] = field(default=(), role=Role.RUNTIME, doc="such as train.steps=100")
    digest: str = field(default="", role=Role.RUNTIME, doc="digest of all fields that the result depends on")

    @classmethod
    def parse(cls, text: str, overrides: Sequence[str] = ()) -> "Source":
        """Parses `FILE[:VARIANT]`, such as `configs/image_classification/digits_vit.py:cpu`; the default is `full`."""
        file, _, variant = text.partition(":")
        return cls(
            experiment=Path(file).resolve().parent.name,
            file=file,
            variant=variant or "full",
            overrides=tuple(overrides),
        )


class Config(Spec):
    """Base class of all configs: a seed and a source. A subclass adds its groups of fields and `build`."""

    seed: int = field(
        default=0, role=Role.SEED, check=checks.between(0, 2**32 - 1), doc="seed of parameters, data order and dropout"
    )
    source: Source = field(default=Source(), role=Role.RUNTIME, doc="where this config came from")

    def build(self, known: Any = None) -> tuple[Any, Any]:
        """Returns the task and the data set; nothing is computed yet.

        With `known`, the data set is the one that a run has recorded.
        """
        raise NotImplementedError(f"{type(self).__name__} builds nothing")


Experiments = Callable[[str], type[Config]]  # from the name of an experiment to the class of its configs


def load_file(file: str) -> ModuleType:
    """The module of a config file. Raises ValueError if the file does not exist or is not a config."""
    path = Path(file)
    if not path.is_file():
        raise ValueError(f"config file {file!r} does not exist; {_nearest_files(file)}")
    if path.suffix != ".py":
        raise ValueError(f"config file {file!r} is not a Python file; the name of a config ends in .py")
    spec = importlib.util.spec_from_file_location(f"config_{path.stem}", path)
    assert spec is not None and spec.loader is not None  # of every file that ends in .py
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name in ("VARIANTS", "RESULT", "EXPERIMENT", "get_config"):
        if not hasattr(module, name):
            raise ValueError(f"config file {file!r} does not define {name}; see research/config.py")
    return module


def _nearest_files(file: str, count: int = 3) -> str:
    """The config files with the most similar names to `file`, for a message."""
    known = sorted(str(other) for other in Path("configs").glob("*/*.py"))
    if not known:
        return f"{Path.cwd()} has no configs/ with config files; run commands in the root of the repository"
    likeness = lambda other: difflib.SequenceMatcher(None, Path(other).name, Path(file).name).ratio()
    near = sorted(known, key=likeness, reverse=True)[:count]
    more = f" and {len(known) - count} more, see tessera show --list" if len(known) > count else ""
    return f"known: {', '.join(near)}{more}"


def load(file: str, variant: str = "full", overrides: Sequence[str] = ()) -> Config:
    """The config of a file, a variant and overrides such as `train.steps=100`.

    Raises ValueError for an unknown file, variant or field, and for a value of the wrong type or out of its range.
    """
    module = load_file(file)
    if variant not in module.VARIANTS:
        raise ValueError(f"unknown variant {variant!r} of {file}; choose from {', '.join(module.VARIANTS)}")
    try:
        raw = plain(module.get_config(variant))
    except FieldError as error:  # raised by a spec that the file constructs
        raise ValueError(f"config file {file!r}: {error}") from None
    config = complete(module.EXPERIMENT, raw, overrides)
    source = Source.parse(f"{file}:{variant}", overrides)
    # A config file may be in any folder, so the experiment is given by its class, not by its path.
    return with_source(config, dataclasses.replace(source, experiment=config.tag or source.experiment))


def of_run(cls: type[AnyConfig], content: Mapping[str, Any], overrides: Sequence[str] = ()) -> AnyConfig:
    """The config of a run directory from the content of its config.json, with `overrides`; no config file is read.

    Raises ValueError as `load` does, and for content that is not a config.
    """
    before = source_of(content)
    raw = {key: value for key, value in content.items() if key != "source"}
    config = complete(cls, raw, overrides)
    source = Source(**{**before, "overrides": (*before["overrides"], *overrides)})
    return with_source(config, source)


def source_of(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """The `source` in the content of a config.json. Raises ValueError if there is none."""
    source = content.get("source")
    if not isinstance(source, Mapping) or source.keys() != {each.name for each in infos(Source)}:
        raise ValueError("config.json of the run holds no source; name its config with --config=FILE[:VARIANT]")
    return source


def complete(cls: type[AnyConfig], raw: Mapping[str, Any], overrides: Sequence[str] = ()) -> AnyConfig:
    """The config of class `cls` with the plain values `raw`, then with the overrides. Raises ValueError as `load`."""
    try:
        named, words = _named(cls, raw, overrides)
        config = _of_plain(cls, named)
        return override(config, [*words, *_following(config, words)])
    except FieldError as error:
        raise ValueError(f"config.{error}") from None


def with_source(config: AnyConfig, source: Source) -> AnyConfig:
    """`config` with `source` and with the digest of `config` in it."""
    return dataclasses.replace(config, source=dataclasses.replace(source, digest=digest(config)))


def _of_plain(cls: type[AnySpec], raw: Mapping[str, Any]) -> AnySpec:
    """A spec from nested plain values; the member of a union of specs is chosen by NAME."""
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
    """`raw` with overrides such as `optimizer.name=lion` applied, and the remaining overrides.

    The group's other values in the config file are kept, whereas `optimizer=lion` resets them to the defaults.
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
    """Additional overrides that keep the ratios of _FOLLOWING for sizes that `words` do not set."""
    before = flat(config)
    given = dict(word.split("=", 1) for word in words if "=" in word)
    # The field itself rejects longer numbers.
    now = before | {name: int(text) for name, text in given.items() if text.isdecimal() and len(text) < 10}
    added = []
    for name, leaders in _FOLLOWING.items():
        leader = next((each for each in leaders if _is_size(before.get(each))), None)
        if leader is None or name in given or not _is_size(before.get(name)) or now[leader] == before[leader]:
            continue
        group = name.split(".")[0]
        if group in given or (group == "model" and not now[leader]):
            continue  # the model is replaced, or its size follows the data set, which is unknown here
        now[name] = round(before[name] * now[leader] / before[leader])
        added.append(f"{name}={now[name]}")
    return added


def _is_size(value: Any) -> bool:
    return type(value) is int and value > 0


def plain(config: Spec | ConfigDict | Mapping) -> dict:
    """The config as nested plain dicts, with tuples for lists, for JSON and comparisons."""
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
    """Two lists of `field: old -> new` lines: differences that a resumed run may have, and those that it may not.

    Args:
        old: plain values, such as those in config.json.
        new: the config to compare with them.
        inference: whether the run is only evaluated or used for prediction, not trained further.

    If the digests are equal, a field that only one of them has is ignored: a newer version added it, and it has its
    `absent` value or does not affect results.
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
    """The `RESULT` of a config file for one variant: main metric, score of a trivial baseline, published reference.

    An entry of `RESULT` under a variant's name overrides the others for that variant.
    """
    module = load_file(file)
    shared = {key: value for key, value in module.RESULT.items() if key not in module.VARIANTS}
    return shared | module.RESULT.get(variant, {})
