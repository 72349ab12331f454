"""Maps train, validation and test to stored examples; missing splits are held out of train."""

import hashlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from research.data import groups

SPLITS = ("train", "validation", "test")
_HALVES = 1706  # the seed of the halves


class Part(NamedTuple):
    """The examples of a TFDS split expression, such as "train[:90]"; only those with indices `rows` unless None."""

    expression: str
    rows: np.ndarray | None = None

    @property
    def described(self) -> str:
        """The expression, and a hash of `rows` unless they are None."""
        if self.rows is None:
            return self.expression
        return f"{self.expression} {hashlib.sha256(self.rows.astype('<i8').tobytes()).hexdigest()[:16]}"


def expressions(available: Mapping[str, int], validation_fraction: float) -> dict[str, str]:
    """The TFDS expressions of train, validation and test, given the prepared splits and their lengths."""
    if "train" not in available:
        raise ValueError(f"the data set has no train split, which is needed, only {', '.join(available)}")
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
    """The parts of splits that share no group, and the number of groups in each."""

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
        fraction: The fraction of train for each held-out split.
        rule: See groups.
        column: A function from an expression to the values of the rule's field.
        name: The name of the data set, for messages.

    Raises:
        ValueError: There are too few groups; a group is in two given splits; or see groups.of_values.
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
                    f"config.data.group={rule!r}: {len(common):,} groups of {name!r} are in both {split} and "
                    f"{other}, such as {min(common)[:100]!r}; move each into one split, or leave the field empty"
                )


def joined(one: Part, other: Part, lengths: Mapping[str, int]) -> Part:
    """The union of two parts; `lengths` are the lengths of their expressions."""
    if one.rows is None and other.rows is None:
        return Part(f"{one.expression}+{other.expression}")
    rows = [np.arange(lengths[each.expression]) if each.rows is None else each.rows for each in (one, other)]
    if one.expression == other.expression:
        return Part(one.expression, np.union1d(*rows))
    return Part(f"{one.expression}+{other.expression}", np.concatenate([rows[0], rows[1] + lengths[one.expression]]))


def half(count: int, number: int) -> np.ndarray:
    """The sorted indices of a pseudorandom half of `count` examples; 2 k is the complement of half 2 k - 1."""
    order = np.random.default_rng((_HALVES, (number - 1) // 2)).permutation(count)
    return np.sort(order[: count // 2] if number % 2 else order[count // 2 :])


def halved(part: Part, number: int, length: int) -> Part:
    """A half of the examples of a part; `length` is that of its expression. See `half`."""
    rows = np.arange(length) if part.rows is None else part.rows
    return Part(part.expression, rows[half(len(rows), number)])


def check_field(features: Mapping[str, Any], rule: str, name: str) -> None:
    """Raises ValueError if examples with these TFDS features lack the rule's field, or if it is not a scalar."""
    field = groups.field_of(rule)
    known = [key for key, feature in features.items() if getattr(feature, "shape", None) == ()]
    if field not in known:
        raise ValueError(
            f"config.data.group={rule!r}: the examples of {name!r} have no scalar field {field!r}; "
            f"choose from {', '.join(known) or 'none'}, or leave it empty"
        )
