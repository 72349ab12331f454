"""The interfaces between parts of the library, as Protocols: data sets, tasks, scorers and programs.

A class implements a contract by having its members, without inheriting from it. This module knows only arrays, no
model, optimizer or input pipeline. JAX is imported only for type checking, since processes that read data do not need
it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Generator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias, TypeVar, runtime_checkable

import numpy as np

if TYPE_CHECKING:
    import jax
    from jax.sharding import Mesh, NamedSharding
    from jax.stages import Wrapped

HostBatch: TypeAlias = dict[str, np.ndarray]  # name -> array [batch, ...], including `index` and `weight` [batch]
Batches: TypeAlias = Generator[HostBatch, None, None]  # closing it ends its worker processes
Batch: TypeAlias = "dict[str, jax.Array]"  # a HostBatch on the mesh
Totals: TypeAlias = "Mapping[str, jax.Array]"  # the normalisers of a loss, over the global batch
Sums: TypeAlias = "dict[str, tuple[jax.Array, jax.Array]]"  # metric -> sum over the examples, and their weight
Outputs: TypeAlias = "Mapping[str, jax.Array]"  # the predictions of a model, each [batch, ...]
HostOutputs: TypeAlias = Mapping[str, np.ndarray]
Tree: TypeAlias = "jax.Array | Mapping[str, Tree]"
Variables: TypeAlias = "Mapping[str, Mapping[str, Tree]]"  # collection, such as `params` -> its arrays by module
LossAux: TypeAlias = "tuple[Variables, Sums]"  # the collections that training changes, such as `batch_stats`; metrics
Axes: TypeAlias = Sequence[tuple[str, Sequence[str | None]]]  # regex of a parameter path -> logical axes
Reference: TypeAlias = Mapping[str, object]  # the ground truth of an example, and fields that identify it
Rows: TypeAlias = slice | Sequence[int]  # of a global batch


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
    """The metadata of a prepared data set.

    counts        number of examples in train, validation and test
    fingerprint   a hash of the content; equal for the same examples on another machine
    class_names   the names of the labels; () if there are none
    vocabulary    the digest of the vocabulary; "" if there is none
    """

    name: str
    version: str
    counts: Mapping[str, int]
    fingerprint: str
    class_names: tuple[str, ...] = ()
    vocabulary: str = ""


class Dataset(Protocol):
    """Batches as a function of (seed, step), of examples that `prepare` has stored.

    The constructor reads and writes no examples, so that task and model can be built and checked first.
    """

    @property
    def name(self) -> str:
        """The name in the config."""
        ...

    @property
    def is_prepared(self) -> bool:
        """Whether its examples are stored."""
        ...

    @property
    def counts(self) -> Mapping[str, int]:
        """Number of examples in train, validation and test. Raises ValueError if they are not prepared."""
        ...

    @property
    def fingerprint(self) -> str:
        """See DatasetInfo. Raises ValueError if the data set is not prepared."""
        ...

    def prepare(self) -> DatasetInfo:
        """Prepares the examples if necessary, and checks them; the only method that writes below `config.data.dir`.

        Raises ValueError for data that must be downloaded manually, are damaged, or do not fit the config.
        """
        ...

    def record(self, folder: Path) -> None:
        """Writes the metadata that prediction needs into the run directory `folder`."""
        ...

    def train_batches(self, seed: int, batch_size: int, start: int = 0, rows: Rows | None = None) -> Batches:
        """Yields rows `rows` (None: all) of batches `start`, `start + 1`, ... of the run with `seed`, infinitely."""
        ...

    def eval_batches(self, split: str, batch_size: int, rows: Rows | None = None) -> Batches:
        """Yields rows `rows` (None: all) of batches with each example of a split once; padding: weight 0, index -1."""
        ...

    def reference(self, split: str, index: int) -> Reference:
        """The ground truth of example `index` of a split, with which scorers compare outputs."""
        ...


@runtime_checkable
class PoissonSampled(Protocol):
    """A data set whose training batches can be Poisson samples: each example is in a batch by a coin of its own."""

    def sampling_rate(self, expected: int) -> float:
        """The probability of an example to be in a batch, for an `expected` batch size.

        Raises ValueError if there are fewer examples.
        """
        ...

    def poisson_batches(
        self, seed: int, expected: int, most: int, size: int, start: int = 0, rows: Rows | None = None
    ) -> Batches:
        """Yields rows `rows` (None: all) of the batches `start`, `start + 1`, ... of the run with `seed`, infinitely.

        Their examples come first; padding to `size` has weight 0 and index -1. Raises ValueError for a sample of more
        than `most` examples.
        """
        ...


class ClassDataset(Dataset, Protocol):
    """A data set with labels."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the labels 0, 1, ..."""
        ...


DataT = TypeVar("DataT", bound=Dataset)
DataT_contra = TypeVar("DataT_contra", bound=Dataset, contravariant=True)


class Scorer(Protocol):
    """Collects the outputs for a split on the host, and scores them."""

    @property
    def signatures(self) -> Mapping[str, str]:
        """Score -> a description of how it was computed; available after `result`."""
        ...

    def add(self, outputs: HostOutputs) -> None:
        """Adds the outputs for a batch, with its `index` and `weight`."""
        ...

    def result(self) -> Mapping[str, float]:
        """Score -> its value over all added outputs."""
        ...

    def save(self, path: Path) -> None:
        """Writes a line of JSON per example."""
        ...


class Task(Protocol[DataT_contra]):
    """Loss, evaluation and prediction: pure functions of a model's variables, which run sharded."""

    @property
    def logical_axes(self) -> Axes:
        """From parameter path to logical axes."""
        ...

    @property
    def selection(self) -> tuple[str, str]:
        """The metric that selects the best checkpoint, and `min` or `max`."""
        ...

    def check_selection(self, means: Collection[str], scored: bool) -> None:
        """Raises ValueError if evaluations do not compute the metric of `selection`.

        They compute the `means` and, if `scored`, the scores of the scorer.
        """
        ...

    def example(self, batch_size: int) -> Mapping[str, jax.ShapeDtypeStruct]:
        """The shapes and dtypes of a batch, for compiling ahead of time."""
        ...

    def init(self, rng: jax.Array) -> Variables:
        """Initial variables: `params`, and collections such as `batch_stats`."""
        ...

    def totals(self, batch: Batch) -> Totals:
        """The normalisers of the loss, once over the global batch."""
        ...

    def loss(self, variables: Variables, batch: Batch, totals: Totals, rng: jax.Array) -> tuple[jax.Array, LossAux]:
        """The loss of a microbatch, normalised by `totals`, so that those of all microbatches add up to the batch's."""
        ...

    def evaluate(self, variables: Variables, batch: Batch) -> Sums:
        """Sums of metrics over a batch. They may be arrays, such as a confusion matrix."""
        ...

    def predict(self, variables: Variables, batch: Batch, rng: jax.Array) -> Outputs:
        """The predictions for a batch."""
        ...

    def derived(self, means: Mapping[str, np.ndarray]) -> Mapping[str, float]:
        """Further metrics of a whole split, from the means of the sums of `evaluate`."""
        ...

    def scorer(self, data: DataT_contra, split: str) -> Scorer | None:
        """The scorer of outputs for a split of `data` on the host; None if there is none."""
        ...


@runtime_checkable
class DataDependent(Protocol[DataT_contra]):
    """A task whose model has parameters with initial values that depend on the training data, such as whitening."""

    def from_data(self, data: DataT_contra) -> Mapping[str, np.ndarray]:
        """{path: initial value} of these parameters, a function of the training split of `data` alone."""
        ...


class State(Protocol):
    """The train state: everything that a training step changes."""

    @property
    def step(self) -> jax.Array:
        """The number of completed steps."""
        ...

    @property
    def params(self) -> Mapping[str, Tree]:
        """The parameters."""
        ...

    @property
    def variables(self) -> Variables:
        """The variables of the model in training."""
        ...

    @property
    def evaluated(self) -> Variables:
        """The variables for evaluation: the EMA if there is one."""
        ...


class Program(Protocol):
    """The jitted functions of a task on a mesh, with explicit shardings; each can also be lowered ahead of time."""

    @property
    def mesh(self) -> Mesh:
        """The device mesh."""
        ...

    @property
    def state(self) -> State:
        """The abstract state: shapes, dtypes and shardings."""
        ...

    @property
    def batch_sharding(self) -> NamedSharding:
        """The sharding of every array of a batch."""
        ...

    @property
    def num_params(self) -> int:
        """The number of parameters."""
        ...

    @property
    def num_trained(self) -> int:
        """The number of trained (not frozen) parameters."""
        ...

    @property
    def frozen(self) -> Collection[str]:
        """The paths of the leaves of `state` that no step changes: frozen parameters, and their averages."""
        ...

    @property
    def optimizer_bytes(self) -> int:
        """The size of the optimizer state."""
        ...

    @property
    def init(self) -> Wrapped:
        """`() -> state`."""
        ...

    @property
    def train_step(self) -> Wrapped:
        """`(state, batch) -> (state, metrics)`; the state is donated."""
        ...

    @property
    def eval_step(self) -> Wrapped:
        """`(variables, batch) -> sums`."""
        ...

    @property
    def predict_step(self) -> Wrapped:
        """`(variables, batch, rng) -> outputs`, including the batch's `index` and `weight`."""
        ...

    @property
    def checksums(self) -> Wrapped:
        """`state -> uint32 [leaves]`."""
        ...
