"""The time ledger: what a restart lost, and the share of time that was not lost."""

import pytest

from research.measure import timeline


def entry(kind, seconds, step):
    return {"kind": kind, "start": 0.0, "seconds": seconds, "step": step}


KILLED_AT_20 = [
    entry("start", 2.0, 0), entry("compile", 3.0, 0), entry("data", 1.0, 10), entry("step", 10.0, 10),
    entry("save", 1.0, 10), entry("data", 2.0, 20), entry("step", 9.0, 20),
]  # fmt: skip


def test_goodput_counts_only_steps_that_were_kept():
    assert timeline.goodput(KILLED_AT_20) == pytest.approx(19 / 28)
    lost = timeline.lost_seconds(KILLED_AT_20, 10)
    assert lost == 11.0
    resumed = [*KILLED_AT_20, entry("lost", lost, 10), entry("step", 10.0, 20)]
    assert timeline.goodput(resumed) == pytest.approx((29 - 11) / 38)
    assert timeline.goodput([]) == 0.0


def test_seconds_are_summed_by_kind_and_the_largest_comes_first():
    assert list(timeline.seconds_by_kind(KILLED_AT_20).items()) == [
        ("step", 19.0), ("compile", 3.0), ("data", 3.0), ("start", 2.0), ("save", 1.0),
    ]  # fmt: skip
