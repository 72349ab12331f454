"""Prediction of examples with the selected checkpoint of a run."""

import functools

from research.spec.contracts import DataT, HostBatch, Task
from research.train import prediction
from research.train.session import Session
from research.train.settings import Experiment


def predict(config: Experiment, task: Task[DataT], data: DataT, workdir: str, examples: HostBatch) -> HostBatch:
    """Predicts `examples` with the selected checkpoint of a run: arrays [count, ...] in, arrays [count, ...] out."""
    return Predictor(config, task, data, workdir)(examples)


class Predictor:
    """`predict` with the checkpoint loaded once, for repeated calls.

    `step` is that of the checkpoint, `variables` are those that are evaluated, `validation` its metrics on the
    validation split, as `{"validation/NAME": value}`; {} if it was not evaluated.
    """

    def __init__(self, config: Experiment, task: Task[DataT], data: DataT, workdir: str):
        session = Session(config, task, data, workdir).opened()
        self.step, state = session.restore_selected()
        session.checkpoints.close()
        self.variables = state.evaluated
        self.validation = session.validated[self.step]
        size = config.train.eval_batch_size
        self._predict = functools.partial(prediction.predict, session.program, state.evaluated, config.seed, size)

    def __call__(self, examples: HostBatch, rows: int = 0) -> HostBatch:
        """Arrays [count, ...] in, arrays [count, ...] out; batches have at least `rows` rows if possible."""
        return self._predict(examples, rows)
