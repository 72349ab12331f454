"""Checks of field values: a predicate, and a text for the error message that states what is accepted."""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast


@dataclass(frozen=True)
class Check:
    """`accepts(value)`, and its `requirement` for the error message, e.g. "must be at least 1"."""

    accepts: Callable[[object], bool]
    requirement: str

    def __and__(self, other: "Check") -> "Check":
        """The conjunction; the requirements are joined by "and"."""
        shared = "must be " if self.requirement.startswith("must be ") else "must "
        return Check(
            lambda value: self.accepts(value) and other.accepts(value),
            f"{self.requirement} and {other.requirement.removeprefix(shared).removeprefix('must ')}",
        )


def _number(value: object) -> float:
    return (
        value if isinstance(value, int | float) else math.nan
    )  # ints are not converted, since large ones overflow a float


def at_least(low: float) -> Check:
    """`value >= low`."""
    return Check(lambda value: _number(value) >= low, f"must be at least {low}")


def at_most(high: float) -> Check:
    """`value <= high`."""
    return Check(lambda value: _number(value) <= high, f"must be at most {high}")


def above(low: float) -> Check:
    """`value > low`."""
    return Check(lambda value: _number(value) > low, f"must be greater than {low}")


def between(low: float, high: float) -> Check:
    """`low <= value <= high`."""
    return Check(lambda value: low <= _number(value) <= high, f"must be between {low} and {high}")


def from_up_to(low: float, high: float) -> Check:
    """`low <= value < high`, e.g. the probability of dropout."""
    return Check(lambda value: low <= _number(value) < high, f"must be at least {low} and less than {high}")


def strictly_between(low: float, high: float) -> Check:
    """`low < value < high`."""
    return Check(lambda value: low < _number(value) < high, f"must be between {low} and {high}, both excluded")


def one_of(*words: str) -> Check:
    """One of `words`."""
    return Check(lambda value: value in words, f"is unknown; choose from {', '.join(sorted(words))}")


def each(check: Check) -> Check:
    """`check` for each item of a tuple."""

    def accepts(value: object) -> bool:
        items = cast(Sequence[object], value) if isinstance(value, tuple) else ()
        return isinstance(value, tuple) and all(check.accepts(item) for item in items)

    return Check(accepts, f"{check.requirement}, each of them")


def not_empty() -> Check:
    """A nonempty text or tuple."""
    return Check(lambda value: bool(value), "must not be empty")


def optional(check: Check) -> Check:
    """None, or a value that `check` accepts."""
    return Check(lambda value: value is None or check.accepts(value), f"{check.requirement}, or be None")


def _is_regex(value: object) -> bool:
    try:
        re.compile(value if isinstance(value, str) else "(")
    except (re.error, RecursionError, OverflowError):
        return False
    return True


def regex() -> Check:
    """A valid regular expression."""
    return Check(_is_regex, "must be a regular expression")
