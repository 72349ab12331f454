"""DP-SGD (Abadi et al., 2016): its settings, what it refuses, and the privacy that a run has spent.

The gradients are those of `clipping.py`. The guarantee is that of the Gaussian mechanism with Poisson sampling, for
data sets that differ in one example, added or removed; docs/privacy.md says what it covers.
"""

import functools
from collections.abc import Mapping
from importlib import metadata
from typing import TYPE_CHECKING, Any

from research.spec import Spec, checks, field, invalid
from research.spec.contracts import DataT, PoissonSampled, Task, Variables

if TYPE_CHECKING:
    from research.train.settings import Experiment

OVERFLOW = 1e-20  # the probability that a Poisson sample exceeds the rows of a batch
EPSILON = "privacy/epsilon"  # the name of the metric
ACCOUNTANTS = ("pld", "rdp")
_PACKAGE = "dp-accounting"


class PrivacySpec(Spec, tag="privacy"):
    """DP-SGD: gradients of single examples are clipped and summed; Gaussian noise is added to the sum."""

    clip_norm: float = field(
        default=0.0, check=checks.between(0, 1e6), doc="clipping threshold of the gradient of each example; 0: off"
    )
    noise_multiplier: float = field(
        default=0.0, check=checks.between(0, 1e6), doc="standard deviation of the noise, in units of clip_norm"
    )
    delta: float = field(
        default=0.0, check=checks.from_up_to(0, 1), doc="delta of the reported epsilon; 0: none is reported"
    )
    sampling: str = field(
        default="poisson", check=checks.one_of("poisson", "shuffle"),
        doc="poisson: each step has each example with probability train.batch_size / examples; shuffle: epochs",
    )  # fmt: skip
    accountant: str = field(
        default="pld", check=checks.one_of(*ACCOUNTANTS),
        doc="accountant of epsilon: privacy loss distributions (tight) or Renyi differential privacy",
    )  # fmt: skip

    @property
    def on(self) -> bool:
        """Whether gradients are private."""
        return self.clip_norm > 0

    @property
    def poisson(self) -> bool:
        """Whether batches are Poisson samples."""
        return self.on and self.sampling == "poisson"

    def validate(self) -> None:
        """Raises FieldError for noise or an epsilon without what they need."""
        if not self.on and (self.noise_multiplier or self.delta):
            raise invalid(self, "clip_norm", "turns DP-SGD off; set it, or noise_multiplier and delta to 0")
        if self.delta and self.sampling != "poisson":
            raise invalid(self, "delta", "asks for epsilon, which needs sampling='poisson'; set that, or delta to 0")
        if self.delta and not self.noise_multiplier:
            raise invalid(
                self, "delta", "asks for epsilon, which is infinite with noise_multiplier=0; set one, or delta to 0"
            )


def capacity(expected: int) -> int:
    """The largest size of a Poisson sample with `expected` examples; it is larger with probability OVERFLOW at most.

    The number of examples is binomial, and its upper tail is below that of the Poisson distribution with the same mean
    (Anderson and Samuels, 1967, for tails from the mean + 1 on), so the size of the data set is not needed.
    """
    import numpy as np
    from scipy.special import pdtrc

    sizes = np.arange(expected + 1, expected + 20 * int(np.sqrt(expected)) + 100)
    return int(sizes[np.argmax(pdtrc(sizes, float(expected)) <= OVERFLOW)])


@functools.cache
def epsilon(spec: PrivacySpec, rate: float, steps: int) -> float:
    """The epsilon at `spec.delta` of `steps` steps of the Poisson-sampled Gaussian mechanism.

    Args:
        spec: The noise multiplier, delta and accountant.
        rate: The probability of each example to be in a batch.
        steps: The number of steps.

    Raises:
        ValueError: dp-accounting is not installed.
    """
    try:
        import dp_accounting  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise ValueError(
            f"config.privacy.delta={spec.delta} asks for epsilon, which needs the package {_PACKAGE}; install it as "
            "docs/privacy.md says, or set delta to 0"
        ) from None
    is_pld = spec.accountant == "pld"
    accountant = dp_accounting.pld.PLDAccountant() if is_pld else dp_accounting.rdp.RdpAccountant()
    noise = dp_accounting.GaussianDpEvent(spec.noise_multiplier)
    accountant.compose(dp_accounting.PoissonSampledDpEvent(rate, noise), steps)
    return float(accountant.get_epsilon(spec.delta))


def check(config: "Experiment", task: Task[DataT], mutable: Variables) -> None:
    """Raises ValueError for a model, task or setting with which the gradient of an example depends on others.

    `mutable` are the collections of the model that training changes.
    """
    if not config.privacy.on:
        return
    if mutable:
        raise ValueError(
            f"config.privacy.clip_norm={config.privacy.clip_norm} needs a model without {', '.join(mutable)}, since "
            "batch norm mixes examples; choose one with layer norm, such as config.model.name=vit, and for faces "
            "config.model.embed_norm=layer"
        )
    if mixing := getattr(task, "mixes_examples", ""):
        raise _mixed(config.privacy, mixing)
    if config.distill.teacher:
        raise ValueError(
            f"config.privacy.clip_norm={config.privacy.clip_norm} does not cover what config.distill.teacher="
            f"{config.distill.teacher!r} has learnt from the same examples; leave it empty"
        )
    if config.train.samples:
        raise ValueError(
            f"config.privacy.clip_norm={config.privacy.clip_norm} does not cover the histograms of gradients that "
            "config.train.samples sends to trackers; set it to false"
        )


def _mixed(spec: PrivacySpec, mixing: str) -> ValueError:
    return ValueError(
        f"{mixing} mixes examples, so that config.privacy.clip_norm={spec.clip_norm} would not bound the influence of "
        "one; turn one of them off"
    )


class Spending:
    """The privacy that a run has spent; it has none without DP-SGD or without a delta."""

    def __init__(self, config: "Experiment"):
        self._spec, self._expected = config.privacy, config.train.batch_size
        self._rate = 0.0

    def check_with_data(self, data: Any) -> None:
        """Raises ValueError for data that cannot be sampled as the config says, and for a delta that is too large."""
        spec = self._spec
        if not spec.on:
            return
        if mixing := getattr(data, "mixes_examples", ""):
            raise _mixed(spec, mixing)
        if not spec.poisson:
            return
        if not isinstance(data, PoissonSampled):
            raise ValueError(
                f"config.privacy.sampling='poisson' is not supported by {type(data).__name__}, which has no "
                "poisson_batches; set it to shuffle"
            )
        self._rate = data.sampling_rate(self._expected)
        examples = round(self._expected / self._rate)
        if spec.delta and spec.delta * examples >= 1:
            raise ValueError(
                f"config.privacy.delta={spec.delta} must be less than 1 / {examples} (training examples), at which "
                "publishing a random example would count as private"
            )
        self.spent(1)  # raises without the accountant, before anything is trained

    def spent(self, steps: int) -> dict[str, float]:
        """`{EPSILON: value}` after `steps` steps; {} if no epsilon is reported."""
        return {EPSILON: epsilon(self._spec, self._rate, steps)} if self._spec.delta and self._rate else {}

    def meta(self, steps: int) -> dict[str, Any]:
        """What a result says of the privacy of `steps` steps; {} without DP-SGD."""
        if not self._spec.on:
            return {}
        content: Mapping[str, Any] = {
            "clip_norm": self._spec.clip_norm,
            "noise_multiplier": self._spec.noise_multiplier,
            "sampling": self._spec.sampling,
            "steps": steps,
        }
        if not self._spec.delta:
            return {"privacy": {**content, "epsilon": None}}
        return {
            "privacy": {
                **content,
                "sampling_rate": self._rate,
                "epsilon": epsilon(self._spec, self._rate, steps),
                "delta": self._spec.delta,
                "accountant": f"{self._spec.accountant}, {_PACKAGE} {metadata.version(_PACKAGE)}",
                "neighbours": "one example (row of a batch) added or removed",
            }
        }
