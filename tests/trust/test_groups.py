"""Groups against statsmodels' formula by hand, and what is no group."""

import pytest
from scipy.stats import binomtest

from research.trust import groups, sections


def test_intervals_are_those_of_wilson():
    for right, count in ((0, 12), (7, 12), (12, 12), (480, 500)):
        expected = binomtest(right, count).proportion_ci(method="wilson")
        assert groups.wilson(right, count) == pytest.approx((expected.low, expected.high))


def test_the_worst_group_has_enough_examples():
    records = [{"index": i, "class": "a" if i < 50 else "b", "speaker": i % 3, "path": f"{i}.wav"} for i in range(90)]
    records += [{"index": 90, "class": "c", "speaker": 1, "path": "90.wav"}]
    for i, record in enumerate(records):
        record["right"] = i % 5 > 0 if i < 50 else i % 2 > 0
    found = groups.of_field(records, "class")
    assert [(each.name, each.examples, each.value) for each in found] == [
        ("c", 1, 0.0),
        ("b", 40, 0.5),
        ("a", 50, 0.8),
    ]
    worst = groups.worst(found)
    assert worst is not None and worst.name == "b"
    assert groups.fields(records) == ["class", "speaker"]
    assert groups.fields([record | {"label": record["class"].upper()} for record in records]) == ["class", "speaker"]
    with pytest.raises(ValueError, match="no group 'person'; choose from class, speaker"):
        groups.of_field(records, "person")
    by_number = groups.of_field(records, "path:^([0-9])")
    assert {each.name: each.examples for each in by_number} == {str(k): 11 if k < 9 and k else 1 for k in range(10)} | {
        "9": 2
    }
    with pytest.raises(ValueError, match="--group='path:x' must be FIELD"):
        groups.of_field(records, "path:x")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"a": (12, 0.2), "b": (30, 0.5)}, "Worst: a."),
        ({"c": (3, 0.0), "a": (12, 0.2), "b": (30, 0.5)}, "Worst of the groups with 10 or more examples: a."),
        ({"a": (12, 0.2), "b": (30, 0.2), "d": (30, 0.9)}, "Worst: a, and 1 with the same score."),
    ],
)
def test_the_worst_group_is_named_among_those_that_are_compared(values, expected):
    rows = [{"name": name, "examples": count, "value": value} for name, (count, value) in values.items()]
    assert sections._worst(rows, "a") == expected
    assert "No group has the 10 examples" in sections._worst(rows, None)
