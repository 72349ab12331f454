"""`config.train.init_from`: the weights that training begins with."""

import re
from collections.abc import Sequence
from typing import Any

from research import config as config_lib
from research.train.program import ShardedProgram

_OF_TOKENS = ("embedding", "head", "ctc_head")  # parameters with a row for each token


def find(config: Any, task: Any, program: ShardedProgram, data: Any, experiments: config_lib.Experiments) -> Any:
    """What becomes of each parameter of `task.model`, see `loading.Loading`; the weights themselves are not read yet.

    `experiments` gives the class of the config of a run. Raises ValueError for what cannot be read, does not fit, or a
    regex of `config.train.init_skip` that is none; also for embeddings of a run whose vocabulary is not that of `data`.
    """
    from research.interop import checkpoints, loading  # here, so that most runs need not wait for them

    for pattern in config.train.init_skip:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"config.train.init_skip holds {pattern!r}, which is no regex: {error}") from None
    checkpoint = checkpoints.open_checkpoint(config.train.init_from, experiments)
    leaves = loading.leaves_of({"params": program.state.params, **program.state.mutable})
    taken = [name for name in _OF_TOKENS if name in leaves and not _found(config.train.init_skip, name)]
    if taken and hasattr(data, "vocabulary"):
        _check_vocabulary(checkpoint, data.vocabulary, getattr(config.data, "vocabulary", ""), taken)
    return loading.plan(checkpoint, task.model, leaves, config.train.init_skip)


def _check_vocabulary(checkpoint: Any, ours: Any, named: str, taken: Sequence[str]) -> None:
    """Raises ValueError where parameters with a row for each token would be taken for the tokens of another vocabulary.

    Whose they are is not always known. A vocabulary that is `named` is then believed; one that is trained on new texts
    is another for certain.
    """
    theirs = checkpoint.vocabulary
    if theirs == ours.digest if theirs else named:
        return
    had = f"the vocabulary {theirs}, these data have {ours.digest}" if theirs else "a vocabulary that is not beside it"
    patterns = ", ".join(f"'^{name}$'" for name in taken)
    raise ValueError(
        f"{checkpoint.path} was trained with {had}; name that vocabulary in config.data.vocabulary, or let what has a "
        f"row for each token are initialised: config.train.init_skip=({patterns},)"
    )


def _found(patterns: Sequence[str], name: str) -> bool:
    return any(re.search(pattern, name) for pattern in patterns)
