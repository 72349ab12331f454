"""Epsilon against published figures and other formulas; what DP-SGD refuses; a private run, resumed."""

import dataclasses
import math
import sys

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.special import gammaln, logsumexp
from scipy.stats import binom, norm

from research.data import pipeline
from research.train import privacy, trainer
from research.train.privacy import PrivacySpec
from tests.killing import outcome
from tests.train import toy
from tests.train.test_clipping import make_config, make_task

DELTA = 1e-5
ORDERS = np.arange(2, 256)


def renyi(rate, noise, steps):
    """The RDP of the Poisson-sampled Gaussian mechanism at ORDERS (Mironov et al., 2019, section 3.3)."""
    found = []
    for order in ORDERS:
        k = np.arange(order + 1)
        binomial = gammaln(order + 1) - gammaln(k + 1) - gammaln(order - k + 1)
        terms = binomial + k * math.log(rate) + (order - k) * math.log1p(-rate) + k * (k - 1) / (2 * noise**2)
        found.append(logsumexp(terms) / (order - 1))
    return steps * np.array(found)


def epsilon(noise, rate, steps, accountant="pld"):
    pytest.importorskip("dp_accounting", reason="dp-accounting is not installed")
    spec = PrivacySpec(clip_norm=1.0, noise_multiplier=noise, delta=DELTA, accountant=accountant)
    return privacy.epsilon(spec, rate, steps)


# Those of TensorFlow Privacy's MNIST tutorial (tutorials/README.md: 60,000 examples, batches of 256), and of Abadi et
# al. (2016), section 5.1 (sampling ratio 0.01, noise 4, 100 and 400 epochs of 100 steps); delta 1e-5.
PUBLISHED = [
    (1.3, 256 / 60_000, 15 * 60_000 // 256, 1.19),
    (1.1, 256 / 60_000, 60 * 60_000 // 256, 3.01),
    (0.7, 256 / 60_000, 45 * 60_000 // 256, 7.10),
    (4.0, 0.01, 10_000, 1.26),
    (4.0, 0.01, 40_000, 2.55),
]


@pytest.mark.parametrize(("noise", "rate", "steps", "published"), PUBLISHED)
def test_epsilon_against_published_figures(noise, rate, steps, published):
    """They were converted from RDP by Mironov (2017), proposition 3; today's accountants convert more tightly."""
    of_order = renyi(rate, noise, steps)
    former = (of_order + math.log(1 / DELTA) / (ORDERS - 1)).min()
    assert former == pytest.approx(published, rel=0.011)  # of integer orders alone, to three digits
    # Canonne et al. (2020), proposition 12.
    tighter = (of_order + np.log1p(-1 / ORDERS) - np.log(DELTA * ORDERS) / (ORDERS - 1)).min()
    rdp, pld = (epsilon(noise, rate, steps, accountant) for accountant in privacy.ACCOUNTANTS[::-1])
    assert rdp == pytest.approx(tighter, rel=0.01)
    assert 0.75 * rdp < pld < rdp < former


@pytest.mark.parametrize(("noise", "steps"), [(5.0, 1), (20.0, 100)])
def test_epsilon_without_sampling_is_that_of_one_gaussian(noise, steps):
    """Balle and Wang (2018), theorem 8; steps add up to one step with noise / sqrt(steps)."""
    scale = math.sqrt(steps) / noise
    delta = lambda value: norm.cdf(scale / 2 - value / scale) - math.exp(value) * norm.cdf(-scale / 2 - value / scale)
    exact = brentq(lambda value: delta(value) - DELTA, 1e-6, 100)
    assert epsilon(noise, 1.0, steps) == pytest.approx(exact, rel=1e-3)


def test_epsilon_without_the_accountant_is_refused_in_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "dp_accounting", None)  # as if it were not installed
    spec = PrivacySpec(clip_norm=1.0, noise_multiplier=1.25, delta=DELTA)
    with pytest.raises(
        ValueError, match=r"^config.privacy.delta=1e-05 asks for epsilon, .* dp-accounting; install it .*$"
    ):
        privacy.epsilon(spec, 0.5, 3)


def test_samples_beyond_the_capacity_are_improbable():
    for expected in (1, 64, 256, 4096):
        most = privacy.capacity(expected)
        assert binom.sf(most, 20 * expected, 1 / 20) <= privacy.OVERFLOW, expected
        assert binom.sf(most - 10, 1000 * expected, 1 / 1000) > privacy.OVERFLOW, "and not much larger than needed"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"noise_multiplier": 1.0}, "clip_norm=0.0 turns DP-SGD off; set it"),
        ({"clip_norm": 1.0, "delta": 1e-5}, "delta=1e-05 asks for epsilon, which is infinite with noise_multiplier=0"),
        (
            {"clip_norm": 1.0, "noise_multiplier": 1.0, "delta": 1e-5, "sampling": "shuffle"},
            "delta=1e-05 asks for epsilon, which needs sampling='poisson'",
        ),
    ],
)
def test_settings_that_contradict_one_another_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        PrivacySpec(**fields)


@dataclasses.dataclass(frozen=True)
class Data(toy.Data):
    """The toy with Poisson samples of its 64 training examples."""

    def sampling_rate(self, expected):
        return expected / self.counts["train"]

    def poisson_batches(self, seed, expected, most, size, start=0, rows=None):
        one = lambda index, rng: {name: array[0] for name, array in self._examples([index]).items()}
        source, rate = range(self.counts["train"]), self.sampling_rate(expected)
        return pipeline.poisson_batches(source, one, seed, rate, most, size, start, rows)


PRIVATE = {
    "privacy.sampling": "poisson", "privacy.noise_multiplier": 1.5, "train.batch_size": 8, "optimizer.name": "adamw",
    "optimizer.learning_rate": 0.01, "train.microbatches": 2, "train.ema": 0.9, "train.checkpoint_every": 5,
    "train.eval_every": 5,
}  # fmt: skip


def run(workdir, data=None, task=None, **settings):
    config = make_config(**(PRIVATE | settings))
    return trainer.run("train", config, task or make_task(0.2), data or Data(), str(workdir))


def test_a_resumed_private_run_ends_in_the_same_bits(tmp_path):
    pytest.importorskip("dp_accounting", reason="dp-accounting is not installed")
    delta = {"privacy.delta": 1e-3}
    whole = run(tmp_path / "whole", **delta, **{"train.steps": 10})
    run(tmp_path / "parts", **delta, **{"train.steps": 5, "train.test": False})
    parts = run(tmp_path / "parts", **delta, **{"train.steps": 10})
    assert outcome(tmp_path / "parts", 10) == outcome(tmp_path / "whole", 10)
    spent = privacy.epsilon(PrivacySpec(clip_norm=1, noise_multiplier=1.5, delta=1e-3), 8 / 64, steps=10)
    assert whole["metrics"][privacy.EPSILON] == whole["privacy"]["epsilon"] == spent == parts["privacy"]["epsilon"]
    assert (whole["privacy"]["sampling_rate"], whole["privacy"]["steps"]) == (0.125, 10)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"task": toy.make_task(mixup=0.0)}, "needs a model without batch_stats, since batch norm mixes examples"),
        ({"task": toy.make_task()}, "batch_stats"),
        (
            {"task": dataclasses.replace(make_task(), spec=toy.make_task().spec)},
            r"config.task.mixup=0.4 mixes examples",
        ),
        ({"train.samples": True}, r"does not cover the histograms of gradients that config.train.samples sends"),
        ({"data": toy.Data()}, "sampling='poisson' is not supported by Data"),
        ({"privacy.delta": 0.5}, r"config.privacy.delta=0.5 must be less than 1 / 64"),
    ],
)
def test_what_has_no_guarantee_is_refused_before_training(settings, message, tmp_path):
    with pytest.raises(ValueError, match=message) as caught:
        run(tmp_path / "run", **settings)
    assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()
