"""What the parts of the library ask of each other: data sets, tasks, scorers and programs, as Protocols.

A class meets a contract by having its members; it need not inherit from it. Only arrays are known here: no model, no
optimizer and no input pipeline. JAX itself is imported by type checkers alone: processes that read data have no use
for it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Generator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias, TypeVar

import numpy as np

if TYPE_CHECKING:
    import jax
    from jax.sharding import Mesh, NamedSharding
    from jax.stages import Wrapped

HostBatch: TypeAlias = dict[str, np.ndarray]  # name -> array [batch, ...], beside them `index` and `weight` [batch]
Batches: TypeAlias = Generator[HostBatch, None, None]  # to be closed, which ends the processes that make them
Batch: TypeAlias = "dict[str, jax.Array]"  # the same on the mesh
Totals: TypeAlias = "Mapping[str, jax.Array]"  # the normalisers of a loss, over the global batch
Sums: TypeAlias = "dict[str, tuple[jax.Array, jax.Array]]"  # metric -> sum over the examples, and their weight
Outputs: TypeAlias = "Mapping[str, jax.Array]"  # what a model makes of a batch, each [batch, ...]
HostOutputs: TypeAlias = Mapping[str, np.ndarray]
Tree: TypeAlias = "jax.Array | Mapping[str, Tree]"
Variables: TypeAlias = "Mapping[str, Mapping[str, Tree]]"  # collection, such as `params` -> its arrays by module
LossAux: TypeAlias = "tuple[Variables, Sums]"  # the collections that training changes, such as `batch_stats`; metrics
Axes: TypeAlias = Sequence[tuple[str, Sequence[str | None]]]  # regex of a parameter path -> logical axes
Reference: TypeAlias = Mapping[str, object]  # what a score needs of an example, or a person to find it again
Rows: TypeAlias = slice | Sequence[int]  # of a global batch


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
    """What is known of a data set once it is prepared.

    counts        examples in train, validation and test
    fingerprint   of the content; the same for the same examples on another machine
    class_names   of the labels; () where there are none
    vocabulary    the digest of the tokens; "" where there are none
    """

    name: str
    version: str
    counts: Mapping[str, int]
    fingerprint: str
    class_names: tuple[str, ...] = ()
    vocabulary: str = ""


class Dataset(Protocol):
    """Batches that are a function of (seed, step), of examples that `prepare` has stored.

    To make one reads and writes nothing of its examples, so that task and model can be built and checked before.
    """

    @property
    def name(self) -> str:
        """As in the config."""
        ...

    @property
    def is_prepared(self) -> bool:
        """Whether its examples are stored."""
        ...

    @property
    def counts(self) -> Mapping[str, int]:
        """Examples in train, validation and test. Raises ValueError where they are not prepared."""
        ...

    @property
    def fingerprint(self) -> str:
        """See DatasetInfo. Raises ValueError where it is not prepared."""
        ...

    def prepare(self) -> DatasetInfo:
        """Stores and checks what is not stored yet; the only call that writes below `config.data.dir`.

        Raises ValueError for what must be fetched by hand, is damaged, or does not fit the config.
        """
        ...

    def record(self, folder: Path) -> None:
        """Writes what prediction needs of this data set into the run directory `folder`."""
        ...

    def train_batches(self, seed: int, batch_size: int, start: int = 0, rows: Rows | None = None) -> Batches:
        """Rows `rows` (None: all) of the batches `start`, `start + 1`, ... of the run `seed`, without end."""
        ...

    def eval_batches(self, split: str, batch_size: int, rows: Rows | None = None) -> Batches:
        """Rows `rows` (None: all) of batches that hold each example of a split once; padding has weight 0, index -1."""
        ...

    def reference(self, split: str, index: int) -> Reference:
        """What a score compares the outputs for example `index` of a split with."""
        ...


class ClassDataset(Dataset, Protocol):
    """A data set with labels."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Of the labels 0, 1, ..."""
        ...


DataT = TypeVar("DataT", bound=Dataset)
DataT_contra = TypeVar("DataT_contra", bound=Dataset, contravariant=True)


class Scorer(Protocol):
    """Collects the outputs for a split on the host, and scores them."""

    @property
    def signatures(self) -> Mapping[str, str]:
        """Name of a score -> how it was computed, once there is a result."""
        ...

    def add(self, outputs: HostOutputs) -> None:
        """Takes the outputs for a batch, with its `index` and `weight`."""
        ...

    def result(self) -> Mapping[str, float]:
        """Name of a score -> its value over all that was added."""
        ...

    def save(self, path: Path) -> None:
        """Writes a line of JSON an example."""
        ...


class Task(Protocol[DataT_contra]):
    """Loss, evaluation and prediction: pure functions over a model, which run sharded."""

    @property
    def logical_axes(self) -> Axes:
        """From parameter path to logical axes."""
        ...

    @property
    def selection(self) -> tuple[str, str]:
        """What chooses among checkpoints: a metric of the evaluation, and `min` or `max`."""
        ...

    def check_selection(self, means: Collection[str], scored: bool) -> None:
        """Raises ValueError where evaluations will not give the metric of `selection`.

        They give the `means` and, if `scored`, what a scorer makes of the outputs.
        """
        ...

    def example(self, batch_size: int) -> Mapping[str, jax.ShapeDtypeStruct]:
        """The shapes and dtypes of a batch, for compiling ahead of time."""
        ...

    def init(self, rng: jax.Array) -> Variables:
        """Fresh variables: `params`, and collections such as `batch_stats`."""
        ...

    def totals(self, batch: Batch) -> Totals:
        """The normalisers of the loss, once over the global batch."""
        ...

    def loss(self, variables: Variables, batch: Batch, totals: Totals, rng: jax.Array) -> tuple[jax.Array, LossAux]:
        """The loss of a microbatch, its share of the global batch's; those of all microbatches add up."""
        ...

    def evaluate(self, variables: Variables, batch: Batch) -> Sums:
        """Sums of metrics over a batch. They may be arrays, such as a confusion matrix."""
        ...

    def predict(self, variables: Variables, batch: Batch, rng: jax.Array) -> Outputs:
        """What the model makes of a batch."""
        ...

    def derived(self, means: Mapping[str, np.ndarray]) -> Mapping[str, float]:
        """Further metrics of a whole split, from the means of the sums of `evaluate`."""
        ...

    def scorer(self, data: DataT_contra, split: str) -> Scorer | None:
        """What scores the outputs for a split of `data` on the host; None where nothing does."""
        ...


class State(Protocol):
    """Everything that a training step changes."""

    @property
    def step(self) -> jax.Array:
        """How many steps have been made."""
        ...

    @property
    def params(self) -> Mapping[str, Tree]:
        """What is trained."""
        ...

    @property
    def variables(self) -> Variables:
        """What the task trains on."""
        ...

    @property
    def evaluated(self) -> Variables:
        """What is evaluated: the average where there is one."""
        ...


class Program(Protocol):
    """The jitted functions of a task on a mesh, with explicit shardings; each can also be lowered on shapes."""

    @property
    def mesh(self) -> Mesh:
        """The devices."""
        ...

    @property
    def state(self) -> State:
        """The abstract state: shapes, dtypes and shardings."""
        ...

    @property
    def batch_sharding(self) -> NamedSharding:
        """Of every array of a batch."""
        ...

    @property
    def num_params(self) -> int:
        """How many parameters the model has."""
        ...

    @property
    def num_trained(self) -> int:
        """How many of them are trained, and not frozen."""
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
        """`(variables, batch, rng) -> outputs`, with the batch's `index` and `weight` beside them."""
        ...

    @property
    def checksums(self) -> Wrapped:
        """`state -> uint32 [leaves]`."""
        ...
