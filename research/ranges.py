"""What fields of `data`, `model` and `task` may hold, whatever the experiment; groups with a spec say it there.

A value that nothing else refuses, and that ends in a crash, in memory that is not there or in numbers without sense.
"""

import math
from collections.abc import Mapping
from typing import Any

from research.spec import checks
from research.spec.checks import Check

_MOST_PX, _MOST_LAYERS = 65_536, 10_000
_COUNT, _SHARE, _BELOW_ONE = checks.at_least(1), checks.between(0, 1), checks.from_up_to(0, 1)
_LAYERS, _SIDE = checks.between(1, _MOST_LAYERS), checks.between(0, _MOST_PX)
_TINY = checks.above(0) & checks.at_most(1)
_TEXTS = checks.each(Check(lambda value: isinstance(value, str), "must be a text"))
_COUNTS = checks.not_empty() & checks.each(_COUNT)

# Fields of one name mean the same wherever they occur. Those of numbers:
RANGES: Mapping[str, Mapping[str, Check]] = {
    "data": {
        "workers": checks.between(0, 1024), "prefetch": checks.between(0, 10_000),
    },
    "model": {
        "epsilon": _TINY, "last_epsilon": _TINY, "layer_norm_epsilon": _TINY,
        "momentum": _BELOW_ONE, "dropout": _BELOW_ONE, "embed_dropout": _BELOW_ONE, "decoder_dropout": _BELOW_ONE,
        "stochastic_depth": _BELOW_ONE, "layer_scale": checks.between(0, 100), "depth": _LAYERS,
        "head_depth": checks.between(0, _MOST_LAYERS),
        "stem_width": checks.at_least(0),
        "extra": checks.between(0, 10), "finest": checks.between(0, 10), "pyramid_channels": _COUNT,
        "embed_dim": _COUNT,
        "width": _COUNT, "mlp_dim": _COUNT, "num_heads": _COUNT, "patch_size": checks.between(1, _MOST_PX),
        "image_size": _SIDE, "image_width": _SIDE, "tubelet": _COUNT,
    },
    "task": {
    },
}  # fmt: skip
# And those of tuples:
TUPLES: Mapping[str, Mapping[str, Check]] = {
    "data": {
    },
    "model": {
        "stage_sizes": checks.not_empty() & checks.each(_LAYERS),
        "widths": _COUNTS,
        "decoder_channels": _COUNTS,
    },
    "task": {
        "metrics": _TEXTS,
    },
}


def check(group: str, values: Mapping[str, Any]) -> None:
    """Raises ValueError, in one line, for a value of a group that makes no sense in any experiment."""
    for name, value in values.items():
        for item in value if isinstance(value, tuple) else (value,):
            if isinstance(item, float) and not math.isfinite(item):
                raise ValueError(f"config.{group}.{name}={value!r} must be finite")
            if isinstance(item, str) and "\0" in item:
                raise ValueError(f"config.{group}.{name}={value!r} holds a NUL character")
        wanted = (TUPLES if isinstance(value, tuple) else RANGES).get(group, {}).get(name)
        if wanted is not None and not wanted.accepts(value):
            raise ValueError(f"config.{group}.{name}={value!r} {wanted.says}")
