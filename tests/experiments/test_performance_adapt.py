"""The suite `adapt`: both sides have the same losses at each step, from the same texts."""

import numpy as np
import pytest

from experiments.performance import adapt_steps, main, turns
from experiments.performance.measurement import load
from research.data import prepare
from tests.experiments.conftest import ROOT

CONFIG = main.QUICK["adapt"]["config"]


@pytest.fixture
def begun(data_dir, monkeypatch):
    """Config, task and data of the smoke config, with a weight decay and learning rate that matter in a few steps."""
    for package in ("torch", "transformers"):
        pytest.importorskip(package, reason=f"{package} is not installed; see the extra [interop]")
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("TFDS_DATA_DIR", str(data_dir))
    prepare.prepare("spelled_numbers")
    words = (*adapt_steps.WORDS, "optimizer.learning_rate=1e-2", "optimizer.weight_decay=0.1")
    config, task, data = load(CONFIG, words)
    data.prepare()
    return config, task, data


def test_texts_are_unpacked_in_their_order(begun):
    config, _, data = begun
    batch = next(adapt_steps.batches(config, data))
    tokens, mask, classes = adapt_steps.unpacked(batch)
    assert len(tokens) == (batch["target_segments"] > 0).sum() > len(batch["source"])
    kept = batch["source"][batch["source_segments"] > 0]
    np.testing.assert_array_equal(tokens[mask > 0], kept)
    np.testing.assert_array_equal(classes, batch["target"][batch["target_segments"] > 0])
    assert mask[:, 0].all() and mask.any(0).all() and not tokens[mask == 0].any()


def test_losses_of_both_sides_are_the_same_step_by_step(begun, monkeypatch):
    class Machine:
        flops_per_s = bytes_per_s = 1e9

        def __init__(self, dtype):
            pass

        def measure(self):
            pass

        def seconds(self, phases):
            return 0.5

    monkeypatch.setattr(turns, "Machine", Machine)
    made = {}
    keep = lambda name, make: lambda *given: made.setdefault(name, make(*given))
    monkeypatch.setattr(adapt_steps, "Tessera", keep("ours", adapt_steps.Tessera))
    monkeypatch.setattr(adapt_steps, "make_pytorch", keep("theirs", adapt_steps.make_pytorch))
    measured = {each.name: each for each in adapt_steps.compare(*begun, steps=6)}
    ours, theirs = made["ours"].losses, made["theirs"].losses
    np.testing.assert_allclose(ours, theirs, atol=1e-4)
    assert len(ours) == 6 and np.ptp(ours) > 0.01  # the weights change, and the batches
    difference = measured["largest difference of losses, 6 steps"]
    assert difference.met and difference.value == np.abs(np.array(ours) - theirs).max()
    assert measured["step: Tessera / PyTorch"].goal == ">= 1"
    assert measured["tokens of a step, with padding: Tessera"].value == 16 * 64
    assert [measured[f"loss of step {step}: Tessera"].value for step in (1, 6)] == [ours[0], ours[5]]
