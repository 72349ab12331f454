"""`config.train.init_from`: the initial weights of training."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from research import config as config_lib
from research.train.program import ShardedProgram
from research.train.settings import TrainSpec

if TYPE_CHECKING:
    from research.data.text.vocabulary import Vocabulary
    from research.interop import loading

_OF_TOKENS = ("embedding", "head", "ctc_head")  # parameters with a row for each token


def open_weights(
    settings: TrainSpec, task: Any, program: ShardedProgram, data: Any, experiments: config_lib.Experiments
) -> "InitialWeights":
    """Determines the source of each parameter of `task.model`; neither the weights nor the `data` are read yet.

    `experiments` maps the name of an experiment to the class of its configs. Raises ValueError if the checkpoint cannot
    be read or does not fit, or if its vocabulary is known to differ from that of `data`.
    """
    from research.interop import checkpoints, loading  # slow to import, and not needed by most runs

    checkpoint = checkpoints.open_checkpoint(settings.init_from, experiments)
    leaves = loading.leaves_of({"params": program.state.params, **program.state.mutable})
    taken = [name for name in _OF_TOKENS if name in leaves and not _found(settings.init_skip, name)]
    vocabulary = getattr(data, "vocabulary", None) if taken else None
    if vocabulary is not None and (vocabulary.given or not checkpoint.vocabulary):
        _check_vocabulary(checkpoint, vocabulary, taken)
    return InitialWeights(loading.plan(checkpoint, task.model, leaves, settings.init_skip), vocabulary, taken)


class InitialWeights:
    """A `loading.Loading`; the parameters `taken` from the checkpoint that have a row for each token are checked."""

    def __init__(self, plan: "loading.Loading", vocabulary: "Vocabulary | None", taken: Sequence[str]):
        self.plan, self._vocabulary, self._taken = plan, vocabulary, taken
        self.state, self.lines, self.report = plan.state, plan.lines, plan.report

    def check_with_data(self) -> None:
        """Raises ValueError if the vocabulary, known once the data are prepared, differs from the checkpoint's."""
        if self._vocabulary is not None:
            _check_vocabulary(self.plan.checkpoint, self._vocabulary, self._taken)


def _check_vocabulary(checkpoint: Any, ours: Any, taken: Sequence[str]) -> None:
    """Raises ValueError if parameters with a row for each token would be used with another vocabulary.

    The checkpoint's vocabulary is not always known. A vocabulary given in the config is then accepted; one that is
    trained on new texts certainly differs.
    """
    theirs = checkpoint.vocabulary
    if theirs == ours.digest if theirs else ours.given:
        return
    had = (
        f"the vocabulary {theirs}, but these data have {ours.digest}"
        if theirs
        else "a vocabulary that is not stored with it"
    )
    patterns = ", ".join(f"'^{name}$'" for name in taken)
    raise ValueError(
        f"{checkpoint.path} was trained with {had}; set config.data.vocabulary to its vocabulary, or initialise the "
        f"parameters with a row for each token: config.train.init_skip=({patterns},)"
    )


def _found(patterns: Sequence[str], name: str) -> bool:
    return any(re.search(pattern, name) for pattern in patterns)
