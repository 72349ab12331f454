"""How PyTorch is set up for a comparison. To be imported only where it is installed."""

import functools
import os
from collections.abc import Callable, Sequence
from typing import Any

import torch


def begin() -> None:
    """As many threads as XLA takes, one for each core, and the same random numbers each time."""
    torch.set_num_threads(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    torch.manual_seed(0)


def candidates(make: Callable[..., Any], compiled: bool, layouts: Sequence[str] = ()) -> dict[str, Callable[[], Any]]:
    """Settings to choose from: eager or, if `compiled`, by torch.compile as well, each in one of the `layouts`.

    A side is `make(compiled=...)`, and where there are layouts `make(compiled=..., layout=...)`. Where torch.compile
    does not work, as without a C++ compiler, there is no such candidate, and the name of the other says so.
    """
    names = {"eager": False}
    if compiled:
        names = {"eager": False, "compiled": True} if compiler_works() else {"eager, for want of a compiler": False}
    if not layouts:
        return {name: functools.partial(make, compiled=value) for name, value in names.items()}
    return {
        f"{name}, {layout}": functools.partial(make, compiled=value, layout=layout)
        for name, value in names.items()
        for layout in layouts
    }


def compiler_works() -> bool:
    """Whether torch.compile makes kernels here: it needs a C++ compiler and the headers of Python."""
    try:
        torch.compile(lambda x: torch.sin(x) + 1)(torch.ones(8))
    except RuntimeError:  # of which its errors are kinds
        return False
    return True
