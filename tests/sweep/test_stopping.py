"""When runs are ended early, by hand."""

from research.sweep.settings import Stop
from research.sweep.stopping import Point, reason


def points(*values, every=10):
    return [Point(every * (number + 1), value) for number, value in enumerate(values)]


def test_patience_counts_evaluations_without_a_new_best():
    stop = Stop(patience=2, after=1)
    assert reason(stop, "max", points(0.5, 0.6, 0.6), []) is None
    assert "2 evaluations" in (reason(stop, "max", points(0.5, 0.6, 0.6, 0.59), []) or "")
    assert reason(stop, "min", points(0.5, 0.6, 0.4), []) is None
    assert reason(Stop(patience=2, after=4), "max", points(0.6, 0.5, 0.4, 0.3), []) is None, "not before `after`"


def test_the_median_is_of_the_running_averages_up_to_the_same_step():
    stop = Stop(median=True, after=1)
    # Running averages at step 20: 0.6, 0.3 and 0.8 (a run that was evaluated once by then); their median is 0.6.
    finished = [points(0.5, 0.7, 0.99), points(0.2, 0.4, 0.99), points(0.8, every=20)]
    assert reason(stop, "max", points(0.1, 0.61), finished) is None
    assert reason(stop, "max", points(0.61, 0.1), finished) is None, "the best value so far counts"
    assert "0.59 is worse than" in (reason(stop, "max", points(0.1, 0.59), finished) or "")
    assert reason(stop, "min", points(0.7, 0.59), finished) is None
    assert reason(stop, "min", points(0.7, 0.61), finished) is not None
    assert reason(stop, "max", points(0.1, 0.1), []) is None, "nothing has finished yet"
