"""Which of two checkpoints is better, by the name of the metric that chooses among them."""

import re
from collections.abc import Collection

_LESS_IS_BETTER = re.compile(r"(.*_)?loss|perplexity|(wer|cer|eer|far|substitutions|insertions|deletions)(_.*)?")


def mode(metric: str) -> str:
    """`min` for losses, error rates and counts of errors, of a group too; `max` for all else."""
    return "min" if _LESS_IS_BETTER.fullmatch(metric) else "max"


def check(metric: str, means: Collection[str], scored: bool) -> None:
    """Raises ValueError for a `metric` that is none of the `means` of an evaluation, where nothing else is `scored`."""
    if metric not in means and not scored:
        raise ValueError(
            f"config.task.select_by={metric!r} is not what an evaluation while training gives; choose from "
            f"{', '.join(sorted(means))}, or set config.train.score='all' to score answers while training"
        )
