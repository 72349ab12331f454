"""Which of two checkpoints is better, by the name of the metric that chooses among them."""

import re

_LESS_IS_BETTER = re.compile(r"(.*_)?loss|perplexity|(wer|cer|eer|far|substitutions|insertions|deletions)(_.*)?")


def mode(metric: str) -> str:
    """`min` for losses, error rates and counts of errors, of a group too; `max` for all else."""
    return "min" if _LESS_IS_BETTER.fullmatch(metric) else "max"
