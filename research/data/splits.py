"""Which stored examples train, validation and test are; what a data set lacks is held out of train."""

import hashlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from research.data import groups

SPLITS = ("train", "validation", "test")


class Part(NamedTuple):
    """The examples of a TFDS split expression, such as "train[:90]"; of these only `rows`, unless they are None."""

    expression: str
    rows: np.ndarray | None = None

    @property
    def described(self) -> str:
        """The expression, with a hash of the rows where there are some."""
        if self.rows is None:
            return self.expression
        return f"{self.expression} {hashlib.sha256(self.rows.astype('<i8').tobytes()).hexdigest()[:16]}"


def expressions(available: Mapping[str, int], validation_fraction: float) -> dict[str, str]:
    """The TFDS expressions of train, validation and test, given the prepared splits and their lengths."""
    if "train" not in available:
        raise ValueError(f"the data set has no train split, only {', '.join(available)}")
    found = {split: split for split in SPLITS if split in available}
    if "test" not in found and "validation" in found:
        found["test"] = found.pop("validation")
    end = total = available["train"]
    for split in ("test", "validation"):
        if split not in found:
            held_out = _held_out(total, validation_fraction)
            found[split] = f"train[{end - held_out}:{end}]"
            end -= held_out
    if end < 1:
        raise ValueError(f"{total} training examples are too few to hold out {validation_fraction:.0%} of them")
    found["train"] = f"train[:{end}]" if end < total else "train"
    return {split: found[split] for split in SPLITS}


def _held_out(total: int, fraction: float) -> int:
    return max(1, round(total * fraction))


class Grouped(NamedTuple):
    """The parts of splits in which no group stands twice, and the number of groups in each."""

    parts: dict[str, Part]
    counts: dict[str, int]


def grouped(
    stored: Mapping[str, str],
    total: int,
    fraction: float,
    rule: str,
    column: Callable[[str], list[str]],
    name: str,
) -> Grouped:
    """Holds out whole groups of examples of train instead of its end.

    Args:
        stored: The TFDS expressions of the splits without groups.
        total: The length of train.
        fraction: Of train, for each split that is held out.
        rule: See groups.
        column: A function from an expression to the values of the field that the rule reads.
        name: The name of the data set, for messages.

    Raises:
        ValueError: There are too few groups; one stands in two splits that the data set has; or see groups.of_values.
    """
    held = [split for split in ("test", "validation") if stored[split].startswith("train[")]
    of_train = groups.of_values(column("train"), rule, name)
    parts = {split: Part(expression) for split, expression in stored.items()}
    members = {split: set(groups.of_values(column(stored[split]), rule, name)) for split in SPLITS if split not in held}
    if held:
        phrases = rule.endswith(f":{groups.PHRASES}")
        try:
            rows = groups.hold_out(of_train, [_held_out(total, fraction)] * len(held), exact_order=phrases)
        except ValueError:
            raise ValueError(
                f"config.data.group={rule!r} makes {len(set(of_train))} group{'s' * (len(set(of_train)) > 1)} of the "
                f"{total:,} training examples of {name!r}, too few to hold out {' and '.join(held)}; choose smaller "
                "groups, or give the data set these splits"
            ) from None
        for split, chosen in zip((*held, "train"), rows, strict=True):
            parts[split] = Part("train", chosen)
            members[split] = {of_train[index] for index in chosen}
    _check_apart(members, rule, name)
    return Grouped(parts, {split: len(members[split]) for split in SPLITS})


def _check_apart(members: Mapping[str, set[str]], rule: str, name: str) -> None:
    if rule.endswith(f":{groups.PHRASES}"):  # a phrase may be in a sentence of another split by chance
        return
    for number, split in enumerate(SPLITS):
        for other in SPLITS[number + 1 :]:
            if common := members[split] & members[other]:
                raise ValueError(
                    f"config.data.group={rule!r}: {len(common):,} groups of {name!r} stand in both {split} and "
                    f"{other}, such as {min(common)[:100]!r}; move each into one split, or leave the field empty"
                )


def joined(one: Part, other: Part, lengths: Mapping[str, int]) -> Part:
    """The examples of two parts; `lengths` are those of whole expressions."""
    if one.rows is None and other.rows is None:
        return Part(f"{one.expression}+{other.expression}")
    rows = [np.arange(lengths[each.expression]) if each.rows is None else each.rows for each in (one, other)]
    if one.expression == other.expression:
        return Part(one.expression, np.union1d(*rows))
    return Part(f"{one.expression}+{other.expression}", np.concatenate([rows[0], rows[1] + lengths[one.expression]]))


def check_field(features: Mapping[str, Any], rule: str, name: str) -> None:
    """Raises ValueError if examples with these TFDS features have no field of one value that the rule could read."""
    field = groups.field_of(rule)
    known = [key for key, feature in features.items() if getattr(feature, "shape", None) == ()]
    if field not in known:
        raise ValueError(
            f"config.data.group={rule!r}: the examples of {name!r} have no field {field!r} of one value; "
            f"choose from {', '.join(known) or 'none'}, or leave it empty"
        )
