"""The names of a checkpoint's leaves: `params/PATH`, `mutable/COLLECTION/PATH`, `ema/COLLECTION/PATH` and others."""

from collections.abc import Iterable


def parameter_path(leaf: str) -> str | None:
    """The path of a parameter or statistic without field and collection; None for a leaf that is neither.

    `encoder/kernel` for `params/encoder/kernel` and for `ema/params/encoder/kernel`.
    """
    field, *rest = leaf.split("/")
    return {"params": "/".join(rest), "mutable": "/".join(rest[1:]), "ema": "/".join(rest[1:])}.get(field)


def evaluated(leaves: Iterable[str]) -> dict[str, str]:
    """Path -> leaf of the evaluated variables: the moving averages if there are any, else parameters and statistics."""
    leaves = list(leaves)
    averaged = any(leaf.startswith("ema/") for leaf in leaves)
    fields = ("ema/",) if averaged else ("params/", "mutable/")
    return {path: leaf for leaf in leaves if leaf.startswith(fields) and (path := parameter_path(leaf)) is not None}
