"""Untrained models at the smoke size, with the predictions of their tasks: a report needs no more."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

from research import config as configs
from research.data import prepare

ROWS = 40


class Untrained(NamedTuple):
    task: Any
    data: Any
    variables: Any
    compiled: Callable[..., Any]

    def predict(self, batch):
        """Of up to ROWS examples, by a program for exactly so many."""
        count = len(batch["index"])
        fill = lambda array: np.pad(array, [(0, ROWS - count)] + [(0, 0)] * (array.ndim - 1))
        full = {name: fill(array) for name, array in batch.items()}
        outputs = jax.device_get(self.compiled(self.variables, full, jax.random.key(0)))
        outputs = {name: array[:count] for name, array in outputs.items()}
        return {**outputs, "index": batch["index"], "weight": batch["weight"]}


@pytest.fixture(scope="session")
def untrained(tmp_path_factory):
    """Makes an Untrained of a config, such as `sentiment/sst2_minilm`, and overrides."""
    root = tmp_path_factory.mktemp("trust_data")

    @functools.cache
    def make(file, *overrides):
        config = configs.load(f"configs/{file}.py", "smoke", [f"data.dir={root}", *overrides])
        prepare.prepare(config.data.name, data_dir=str(root))
        task, data = config.build()
        data.prepare()
        return Untrained(task, data, jax.jit(task.init)(jax.random.key(0)), jax.jit(task.predict))

    return make
