"""Progress without a terminal."""

from research.measure import progress


def test_the_time_left_leaves_out_the_compilation_that_the_first_step_waits_for(monkeypatch, capsys):
    clock = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock)
    bar = progress.Lines(101, "training", "steps", initial=10)
    clock = 60.0  # compiled
    bar.update()
    for _ in range(10):
        clock += 2
        bar.update()
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "training: 11 of 101 (11%) steps after 60 s"
    assert lines[1] == "training: 16 of 101 (16%) steps after 70 s, about 3 min left", "2 s a step, not 12"
