"""What a task says of itself so that it can be exported as a program that needs none of this code."""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import jax

from research.spec.contracts import Variables


@runtime_checkable
class Served(Protocol):
    """A task with answers that are one array, to inputs of which only the batch is not fixed."""

    def serve_inputs(self, batch: Any) -> Mapping[str, jax.ShapeDtypeStruct]:
        """The names, shapes and dtypes of the inputs; `batch`, their first axis, may be symbolic."""
        ...

    def serve(self, variables: Variables, *inputs: jax.Array) -> jax.Array:
        """The answers to a batch."""
        ...
