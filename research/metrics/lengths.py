"""Groups of examples by length."""

from collections.abc import Sequence

import numpy as np

QUARTERS = 4


def quarters(lengths: Sequence[float]) -> list[str]:
    """The quartile of each example by length, as a range of whole numbers such as `01-07`, or one, such as `08`."""
    edges = np.unique(np.quantile(lengths, np.linspace(0, 1, QUARTERS + 1)).astype(int))
    if len(edges) < 3:
        return [str(int(length)) for length in lengths]
    number = np.clip(np.searchsorted(edges, lengths, side="right") - 1, 0, len(edges) - 2)
    last = len(edges) - 2
    digits = len(str(edges[-1]))
    ends = [(edges[k], edges[k + 1] - (k < last)) for k in range(last + 1)]
    names = ["-".join(f"{end:0{digits}d}" for end in dict.fromkeys(each)) for each in ends]
    return [names[each] for each in number]
