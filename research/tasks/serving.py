"""The interface of tasks that can be exported as standalone programs."""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import jax

from research.spec.contracts import Variables


@runtime_checkable
class Served(Protocol):
    """A task whose prediction is one array, for inputs with fixed shapes except for the batch size."""

    def serve_inputs(self, batch: Any) -> Mapping[str, jax.ShapeDtypeStruct]:
        """The names, shapes and dtypes of the inputs; `batch`, their first axis, may be symbolic."""
        ...

    def serve(self, variables: Variables, *inputs: jax.Array) -> jax.Array:
        """The predictions for a batch."""
        ...
