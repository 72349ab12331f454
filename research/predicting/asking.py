"""One `predict` command: predicts valid inputs, reports invalid ones, and writes a record of each to a file."""

import re
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any

import numpy as np

from research.command import Failure
from research.data import recorded
from research.measure import progress
from research.parallel import processes
from research.predicting import answers
from research.predicting.inputs import Named
from research.train import rundir, trainer

_LONG = 200  # characters of an input that are printed


def known(mode: str, workdir: str) -> recorded.Recorded | None:
    """The recorded metadata of the data set of the run in `workdir`, for `predict`; None for other modes."""
    if mode != "predict":
        return None
    folder = rundir.RunDirectory(workdir)
    found = recorded.read(folder.files)
    if found:
        found.folder = folder  # keeps local copies of files in a bucket until they are read
    return found


def shown(name: str) -> str:
    """An input for printing: on one line, and shortened if it is a long text."""
    line = " ".join(name[: 2 * _LONG].split())
    return line if len(line) <= _LONG else line[:_LONG] + "..."


class Asking:
    """The inputs and predictions of one command; a context manager that writes `out` at its end.

    At the end it raises ValueError if all inputs are invalid, and Failure (exit code 1) if some are. A single invalid
    input raises its own error.
    """

    def __init__(self, config: Any, task: Any, data: Any, workdir: str, out: str = ""):
        if out:
            answers.check(out)
        self._run, self._out = (config, task, data, workdir), out
        self._batch_size = config.train.eval_batch_size
        self._predictor: trainer.Predictor | None = None
        self._records: list[answers.Record] = []
        self._names: list[str] = []
        self._given = self._bad = self._rows = 0

    def __enter__(self) -> "Asking":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        if error is not None:
            return
        if self._bad == self._given:
            raise ValueError(f"all {self._given} inputs are invalid, see above; fix them")
        if self._out and processes.is_main():
            order = {name: position for position, name in reversed(list(enumerate(self._names)))}
            answers.write(self._out, sorted(self._records, key=lambda record: order.get(record["input"], -1)))
        if self._bad:
            raise Failure(f"{self._bad} of {self._given} inputs are invalid, see above; the others have predictions")

    def batches(
        self, named: Sequence[Named], read: Callable[[Any], Any], size: int = 0
    ) -> Iterator[tuple[list[str], list[Any]]]:
        """Yields the names of inputs and the results of `read`, up to `size` (`train.eval_batch_size`) at a time.

        Inputs with an error, or for which `read` raises ValueError, are reported and skipped.
        """
        size = size or self._batch_size
        self._given += len(named)
        self._names += [each.name for each in named]
        self._rows = size if len(named) > size else 0  # so that the last batch needs no recompilation
        names, contents = [], []
        for name, content, error in named:
            try:
                if error:
                    raise error
                contents.append(read(content))
                names.append(name)
            except ValueError as problem:
                self.refuse(name, problem)
            if len(names) == size:
                yield names, contents
                names, contents = [], []
        if names:
            yield names, contents

    @property
    def predictor(self) -> trainer.Predictor:
        """The predictor of the selected checkpoint, loaded when first used, after the inputs have been checked."""
        if self._predictor is None:
            self._predictor = trainer.Predictor(*self._run)
        return self._predictor

    def outputs(self, examples: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The predictions for `examples`: arrays [count, ...] in, arrays [count, ...] out."""
        return self.predictor(examples, self._rows) if self._rows else self.predictor(examples)

    def answer(self, line: str, record: answers.Record) -> None:
        """Prints the line of a prediction, and keeps its record for the file."""
        if processes.is_main():
            print(line)
            self.keep(record)

    def keep(self, record: answers.Record) -> None:
        """Keeps a record for the file without printing it."""
        self._records.append(record)

    def refuse(self, name: str, error: ValueError) -> None:
        """Reports an invalid input in one line. Raises `error` if it is the only input."""
        if self._given == 1:
            raise error
        self._bad += 1
        if processes.is_main():
            why = re.sub(rf"^(\w+ )?{re.escape(repr(name))} ", "", str(error))
            why = why.removeprefix(f"{name}, ").removeprefix(f"{name} ")
            why = " ".join(why.split())
            progress.say(f"{shown(name)}: {why}")
            self._records.append({"input": name, "error": why})
