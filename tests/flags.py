"""The XLA flags that processes started by tests get."""

import os

# LLVM optimises less: compiling, most of the work of tests, takes 40 % less time. What users run is compiled as ever;
# tests/strangers/test_numerics.py tests that.
QUICK_COMPILE = "--xla_backend_optimization_level=1"


def one_device() -> dict[str, str]:
    """The environment of a process on one device; the 8 virtual ones of the tests come from XLA_FLAGS."""
    return os.environ | {"XLA_FLAGS": QUICK_COMPILE}
