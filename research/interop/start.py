"""`config.train.init_from`: the weights that training begins with."""

import re
from typing import Any

from research.train.program import Program


def find(config: Any, task: Any, program: Program, data: Any) -> Any:
    """What becomes of each parameter of `task.model`, see `loading.Loading`; the weights themselves are not read yet.

    Raises ValueError for what cannot be read, does not fit, or a regex of `config.train.init_skip` that is none; also
    for embeddings of a run whose vocabulary is not that of `data`.
    """
    from research.interop import checkpoints, loading  # here, so that most runs need not wait for them

    for pattern in config.train.init_skip:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"config.train.init_skip holds {pattern!r}, which is no regex: {error}") from None
    checkpoint = checkpoints.open_checkpoint(config.train.init_from)
    _check_vocabulary(checkpoint, data, config.train.init_skip)
    variables = {"params": program.state.params, **program.state.mutable}
    return loading.plan(checkpoint, task.model, loading.leaves_of(variables), config.train.init_skip)


def _check_vocabulary(checkpoint: Any, data: Any, skipped: tuple[str, ...]) -> None:
    theirs = checkpoint.vocabulary
    if not theirs or not hasattr(data, "vocabulary") or any(re.search(pattern, "embedding") for pattern in skipped):
        return
    if theirs != data.vocabulary.digest:
        raise ValueError(
            f"{checkpoint.path} was trained with the vocabulary {theirs}, these data have {data.vocabulary.digest}; "
            "name that run's vocabulary in config.data.vocabulary, or the embeddings in config.train.init_skip"
        )
