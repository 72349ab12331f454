"""Groups of examples that must be in the same split, such as the recordings of a speaker.

A rule is FIELD, a field of the examples whose value is the group, or `FIELD:HOW`, where HOW maps a value to its group:

    parent      the parent folder of a path
    phrases     the longest text that contains it, for phrases of a sentence (only if train is divided)
    REGEX       the match of the one capturing group of a regular expression
"""

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import PurePosixPath

import numpy as np

from research.spec import checks

PARENT, PHRASES = "parent", "phrases"


def _is_rule(value: object) -> bool:
    field, colon, how = value.partition(":") if isinstance(value, str) else ("", "", "")
    if not field:
        return value == ""
    if not colon or how in (PARENT, PHRASES):
        return True
    return checks.regex().accepts(how) and re.compile(how).groups == 1


RULE = checks.Check(
    _is_rule,
    "must be FIELD, FIELD:parent, FIELD:phrases, or FIELD:REGEX with one group in parentheses, such as "
    "'path:([^/]+)_[0-9]+[.]wav'",
)


def field_of(rule: str) -> str:
    """The FIELD of a rule."""
    return rule.partition(":")[0]


def of_values(values: Sequence[str], rule: str, name: str) -> list[str]:
    """The group of each example, given the value of FIELD for each.

    Raises ValueError, with `name` of the data set, if the regular expression does not match a value.
    """
    how = rule.partition(":")[2]
    if how == PARENT:
        return [str(PurePosixPath(value).parent) for value in values]
    if how == PHRASES:
        return _sentences(values)
    if not how:
        return list(values)
    found = [re.search(how, value) for value in values]
    if missed := [value for value, match in zip(values, found, strict=True) if not (match and match[1])]:
        raise ValueError(
            f"config.data.group={rule!r} finds no group in {len(missed):,} of {len(values):,} examples of {name!r}, "
            f"such as {missed[0][:100]!r}; it must find one in each"
        )
    return [match[1] for match in found if match]


def order(group: str) -> bytes:
    """The sort key by which groups are held out, lowest first: a hash, so pseudorandom but fixed."""
    return hashlib.sha256(group.encode(errors="surrogateescape")).digest()


def hold_out(groups: Sequence[str], counts: Sequence[int], exact_order: bool = False) -> list[np.ndarray]:
    """Divides examples into parts without dividing groups.

    Args:
        groups: The group of each example.
        counts: The target number of examples of each part. Groups are added to it in `order`, except those that would
            move its size away from the target; at least one.
        exact_order: Whether a part ends at the first such group instead of skipping it.

    Returns:
        The sorted indices of the examples of each part, and then of those in no part.

    Raises:
        ValueError: There are fewer groups than parts.
    """
    sizes = Counter(groups)
    waiting = sorted(sizes, key=order)
    if len(waiting) <= len(counts):
        raise ValueError(f"{len(waiting)} are too few to be divided among {len(counts) + 1} splits")
    part_of: dict[str, int] = {}
    for part, wanted in enumerate(counts):
        chosen, most = [], len(waiting) - (len(counts) - part)  # one is left for each part that follows, and for train
        for group in waiting:
            missing = wanted - sum(sizes[each] for each in chosen)
            if missing <= 0 or len(chosen) == most:
                break
            if abs(missing - sizes[group]) < missing:
                chosen.append(group)
            elif exact_order:
                break
        chosen = chosen or [waiting[0] if exact_order else min(waiting, key=lambda group: sizes[group])]
        part_of |= dict.fromkeys(chosen, part)
        waiting = [group for group in waiting if group not in part_of]
    numbers = np.array([part_of.get(group, len(counts)) for group in groups])
    return [np.flatnonzero(numbers == part) for part in range(len(counts) + 1)]


def _sentences(texts: Sequence[str]) -> list[str]:
    """For each text, the longest text that contains it; of several, the first in `order`.

    Since groups are held out in that order, no text of train is contained in a held-out one.
    """
    words = [tuple(text.split()) for text in texts]
    known, inner, owners = set(words), set[tuple[str, ...]](), {}
    for whole in sorted(known, key=len, reverse=True):
        if whole in inner:
            continue
        key = order(" ".join(whole))
        for start in range(len(whole)):
            for end in range(start + 1, len(whole) + 1):
                part = whole[start:end]
                if part in known:
                    inner.add(part)
                    if part not in owners or key < owners[part][0]:
                        owners[part] = key, " ".join(whole)
    return [owners[each][1] if each else "" for each in words]
