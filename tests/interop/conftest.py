"""What the tests of interop have in common."""

import jax
import pytest


@pytest.fixture
def quick_compilation():
    """XLA need not optimise what is small and runs once."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
