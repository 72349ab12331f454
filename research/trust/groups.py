"""Scores by group (class, person, speaker, length, ...), with intervals."""

from collections.abc import Callable, Mapping, Sequence
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np

from research.data import groups as rules
from research.report.intervals import Measured

LEAST = 10  # minimum number of examples of the worst group
MOST = 100  # maximum number of groups of a field; fields with more, such as paths, are skipped
_Z = NormalDist().inv_cdf(0.975)
_NO_GROUPS = (
    *("index", "predicted", "probabilities", "prediction", "path", "name", "path1", "path2", "mask", "right"),
    *("found", "nearest", "rank", "similarity", "nearest_similarity", "probability", "null_difference"),
    *("same", "fold"),
)

Records = Sequence[Mapping[str, Any]]
Measure = Callable[[Records], Measured | None]  # the score of some records; None if they have none


class Group(NamedTuple):
    """A value of a field, its examples, and their score with its 95 % interval."""

    name: str
    examples: int
    value: float
    low: float
    high: float


def accuracy(records: Records) -> Measured:
    """The share of records that are `right`, with its Wilson interval."""
    right = sum(bool(record["right"]) for record in records)
    return Measured(right / len(records), *wilson(right, len(records)))


def of_field(records: Records, field: str, measure: Measure = accuracy, mode: str = "max") -> list[Group]:
    """The groups of `field`, the worst first; `mode` is "min" if lower scores are better.

    `field` is also a rule such as `path:parent`, see data/groups.py. A record whose value is a tuple is in several
    groups. Groups that have no score are left out.

    Raises:
        ValueError: The examples do not have this field.
    """
    name, colon, _ = field.partition(":")
    if any(name not in record for record in records):
        known = ", ".join(fields(records)) or "none"
        raise ValueError(f"the examples have no group {field!r}; choose from {known}")
    values = [_names(record[name]) for record in records]
    if colon:
        values = [(value,) for value in _by_rule([str(record[name]) for record in records], field)]
    members: dict[str, list[Mapping[str, Any]]] = {}
    for names, record in zip(values, records, strict=True):
        for value in dict.fromkeys(names):
            members.setdefault(value, []).append(record)
    scored = ((value, own, measure(own)) for value, own in members.items())
    found = [Group(value, len(own), *score) for value, own, score in scored if score is not None]
    sign = 1 if mode == "max" else -1
    return sorted(found, key=lambda group: (sign * group.value, group.name))


def _names(value: Any) -> tuple[str, ...]:
    return tuple(map(str, value)) if isinstance(value, tuple) else (str(value),)


def _by_rule(values: Sequence[str], rule: str) -> list[str]:
    if not rules.RULE.accepts(rule):
        raise ValueError(f"--group={rule!r} {rules.RULE.requirement}")
    try:
        return rules.of_values(values, rule, "test")
    except ValueError as error:
        raise ValueError(str(error).replace("config.data.group", "--group")) from None


def fields(records: Records) -> list[str]:
    """The fields whose values divide the examples into 2 to MOST groups, of two examples or more on average.

    Of fields that divide them alike, only the first.
    """
    if not records:
        return []
    names = [name for name in records[0] if name not in _NO_GROUPS and isinstance(records[0][name], str | int | tuple)]
    most = min(MOST, len(records) // 2)
    distinct = lambda name: {each for record in records for each in _names(record.get(name))}
    divided: dict[tuple[Any, ...], str] = {}
    for name in names:
        if 1 < len(distinct(name)) <= most:
            numbers: dict[Any, int] = {}  # of the values, by first occurrence
            values = (record.get(name) for record in records)
            divided.setdefault(tuple(numbers.setdefault(value, len(numbers)) for value in values), name)
    return list(divided.values())


def worst(groups: Sequence[Group]) -> Group | None:
    """The worst group, of those with at least LEAST examples; None without one."""
    return next((group for group in groups if group.examples >= LEAST), None)


def wilson(right: int, count: int) -> tuple[float, float]:
    """The 95 % score interval (Wilson, 1927) of the fraction `right` / `count`."""
    share, z = right / count, _Z**2 / count
    centre = (share + z / 2) / (1 + z)
    half = _Z * np.sqrt(share * (1 - share) / count + z / (4 * count)) / (1 + z)
    return float(max(centre - half, 0.0)), float(min(centre + half, 1.0))
