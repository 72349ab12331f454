"""The sweep file: which settings of a config are tried.

A TOML file with

    config = "configs/image_classification/digits_vit.py:cpu"
    overrides = ["train.steps=600"]     # of every run
    seeds = [0, 1]
    metric = "validation/accuracy"      # by which settings are chosen; default: the one that selects checkpoints

and one of the tables `[grid]` (all combinations), `[[list]]` (explicit trials) and `[random]` (random search):

    [grid]
    "optimizer.learning_rate" = [3e-4, 1e-3]
    "model.dropout" = [0.0, 0.1]

    [random]
    samples = 8
    seed = 0
    "optimizer.learning_rate" = {log = [1e-4, 1e-2]}    # log-uniform; also uniform, integers and choice

    [[list]]
    "model.depth" = 4
    "model.width" = 96

`[stop]` stops runs early: with `median = true` those that are worse than the median of finished ones, with
`patience = 3` those whose metric has not improved for three evaluations; neither in the first `after` evaluations.
"""

import dataclasses
import difflib
import itertools
import math
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

KINDS = ("grid", "list", "random")
_KEYS = ("config", "overrides", "seeds", "metric", *KINDS, "stop")
_DRAWN = ("log", "uniform", "integers", "choice")
MOST = 10_000  # maximum number of runs
_REDRAWN = 1000  # draws that may equal earlier ones


@dataclasses.dataclass(frozen=True)
class Stop:
    """Early stopping; `patience` is a number of evaluations, 0: off."""

    median: bool = False
    patience: int = 0
    after: int = 1


@dataclasses.dataclass(frozen=True)
class Sweep:
    """The content of a sweep file.

    config     `FILE[:VARIANT]`
    trials     the overrides of each trial, such as `("optimizer.learning_rate=0.001",)`
    common     the overrides of all trials
    seeds      the seeds with which each trial is run
    metric     `validation/NAME`; None: the metric that selects checkpoints
    """

    config: str
    trials: tuple[tuple[str, ...], ...]
    common: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0,)
    metric: str | None = None
    stop: Stop = Stop()

    def overrides(self, trial: int, seed: int) -> list[str]:
        """All overrides of a run."""
        return [*self.common, *self.trials[trial], f"seed={seed}"]


def read(path: Path) -> Sweep:
    """Reads a sweep file. Raises ValueError in one line for a missing or invalid file."""
    try:
        content = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ValueError(f"the sweep file {path} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"the sweep file {path} is not valid TOML: {error}") from None
    try:
        return parse(content)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def parse(content: Mapping[str, Any]) -> Sweep:
    """The sweep of a parsed file. Raises ValueError for unknown keys and invalid values."""
    for key in content:
        _known(key, _KEYS)
    kinds = [kind for kind in KINDS if kind in content]
    if len(kinds) != 1:
        raise ValueError(f"give one of the tables grid, list and random, not {' and '.join(kinds) or 'none'}")
    trials = {"grid": _grid, "list": _list, "random": _random}[kinds[0]](content[kinds[0]])
    seeds = content.get("seeds", [0])
    if not isinstance(seeds, list) or not seeds or not all(map(_is_int, seeds)) or len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds={seeds!r} must be a list of different integers, e.g. [0, 1, 2]")
    if len(trials) * len(seeds) > MOST:
        raise ValueError(f"{len(trials)} settings with {len(seeds)} seeds are more than {MOST} runs; leave some out")
    metric = content.get("metric")
    if metric is not None and not str(metric).startswith("validation/"):
        raise ValueError(f"metric={metric!r} must start with validation/, since settings are never chosen on test")
    config, common = content.get("config"), content.get("overrides", [])
    if not isinstance(config, str):
        raise ValueError("config is missing; give one, e.g. 'configs/image_classification/digits_vit.py:cpu'")
    if not isinstance(common, list) or not all(isinstance(each, str) and "=" in each for each in common):
        raise ValueError(f"overrides={common!r} must be a list of strings FIELD=VALUE")
    for each in common:
        _check_free(each.partition("=")[0])
    return Sweep(config, trials, tuple(common), tuple(seeds), metric, _stop(content.get("stop", {})))


def _grid(fields: Any) -> tuple[tuple[str, ...], ...]:
    """All combinations, in which the last field changes fastest."""
    if not isinstance(fields, Mapping):
        raise ValueError(f"grid={fields!r} must be a table [grid] of fields, each with a list of values")
    for name, values in fields.items():
        if not isinstance(values, list) or not values:
            raise ValueError(f"[grid] {name}={values!r} must be a list of values")
    lines = [[_override(name, value) for value in values] for name, values in fields.items()]
    if math.prod(map(len, lines)) > MOST:
        raise ValueError(f"[grid] has more than {MOST} combinations; leave some out, or use [random]")
    return _different(itertools.product(*lines), "grid")


def _list(entries: Any) -> tuple[tuple[str, ...], ...]:
    if not isinstance(entries, list) or not entries or not all(isinstance(each, Mapping) for each in entries):
        raise ValueError("[[list]] must be tables, each with the fields of a trial")
    return _different((tuple(_override(name, value) for name, value in each.items()) for each in entries), "list")


def _random(table: Any) -> tuple[tuple[str, ...], ...]:
    """`samples` different draws of all fields; the first ones stay the same if more are drawn later."""
    if not isinstance(table, Mapping):
        raise ValueError(f"random={table!r} must be a table [random] with samples and fields")
    fields = {name: table[name] for name in table if name not in ("samples", "seed")}
    samples: Any = table.get("samples")
    seed: Any = table.get("seed", 0)
    if not _is_int(samples) or not 1 <= samples <= MOST or not _is_int(seed) or seed < 0:
        raise ValueError(f"[random] needs samples, from 1 to {MOST}, and an optional seed of 0 or more")
    if not fields:
        raise ValueError("[random] has no field; add one, e.g. 'optimizer.learning_rate'")
    rng = np.random.default_rng(seed)
    found: dict[tuple[str, ...], None] = {}
    for _ in range(samples + _REDRAWN):
        found.setdefault(tuple(_override(name, _draw(name, spec, rng)) for name, spec in fields.items()))
        if len(found) == samples:
            return tuple(found)
    raise ValueError(
        f"[random] found only {len(found)} different settings, not {samples}; use [grid], or fewer samples"
    )


def _draw(name: str, spec: Any, rng: np.random.Generator) -> Any:
    kind: str = next(iter(spec), "") if isinstance(spec, Mapping) and len(spec) == 1 else ""
    values: Any = spec[kind] if kind else None
    if kind == "choice" and isinstance(values, list) and values:
        return values[int(rng.integers(len(values)))]
    allowed = int if kind == "integers" else int | float
    numbers = isinstance(values, list) and len(values) == 2 and all(isinstance(each, allowed) for each in values)
    numbers = numbers and all(map(math.isfinite, values))
    if kind not in _DRAWN or not numbers or not values[0] < values[1] or (kind == "log" and values[0] <= 0):
        raise ValueError(
            f"[random] {name}={spec!r} must be {{log = [low, high]}} with low > 0, {{uniform = [low, high]}}, "
            "{integers = [low, high]} or {choice = [...]}, with finite numbers"
        )
    low, high = values
    if kind == "integers":
        return int(rng.integers(low, high, endpoint=True))
    drawn = math.exp(rng.uniform(math.log(low), math.log(high))) if kind == "log" else rng.uniform(low, high)
    rounded = float(f"{drawn:.4g}")  # easier to read
    return rounded if low <= rounded <= high else drawn


def _override(name: str, value: Any) -> str:
    _check_free(name)
    return f"{name}={tuple(value)!r}" if isinstance(value, list) else f"{name}={value}"


def _check_free(name: str) -> None:
    """Raises ValueError for a field that the sweep itself sets."""
    if name == "seed":
        raise ValueError("seed is not a setting to compare; use seeds = [...]")
    if name == "train.test":
        raise ValueError("train.test is set by the sweep, which scores only the best trial on test; remove it")


def _different(trials: Any, kind: str) -> tuple[tuple[str, ...], ...]:
    found = tuple(map(tuple, trials))
    if len(set(found)) < len(found):
        twice = next(each for each in found if found.count(each) > 1)
        raise ValueError(f"[{kind}] has {' '.join(twice) or 'the unchanged config'} twice; remove one")
    return found


def _stop(table: Any) -> Stop:
    if not isinstance(table, Mapping):
        raise ValueError(f"stop={table!r} must be a table [stop] with median, patience and after")
    names = [each.name for each in dataclasses.fields(Stop)]
    for key in table:
        _known(key, names)
    stop = Stop(**table)
    counts = {"patience": stop.patience, "after": stop.after}
    if not isinstance(stop.median, bool) or not all(_is_int(value) and value >= 0 for value in counts.values()):
        raise ValueError(f"[stop] is {dict(table)}; median must be true or false, patience and after 0 or more")
    return stop


def _known(key: str, keys: Sequence[str]) -> None:
    if key not in keys:
        near = difflib.get_close_matches(key, keys, n=1)
        raise ValueError(
            f"unknown key {key!r}" + (f"; did you mean {near[0]!r}?" if near else "; see tessera sweep -h")
        )


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
