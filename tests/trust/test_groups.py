"""Groups against statsmodels' formula by hand, and what is no group."""

import pytest
from scipy.stats import binomtest

from research.trust import groups


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
    with pytest.raises(ValueError, match="no group 'person'; choose from class, speaker"):
        groups.of_field(records, "person")
    by_number = groups.of_field(records, "path:^([0-9])")
    assert {each.name: each.examples for each in by_number} == {str(k): 11 if k < 9 and k else 1 for k in range(10)} | {
        "9": 2
    }
    with pytest.raises(ValueError, match="--group='path:x' must be FIELD"):
        groups.of_field(records, "path:x")
