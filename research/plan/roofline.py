"""Roofline model of a step (Williams et al., 2009): compute, HBM and interconnect.

Each time is that at peak rate. The three can overlap, so the longest is a lower bound of the step time, and the
utilisation at that time an upper bound. Two thirds of this bound are a good result.
"""

import dataclasses
from collections.abc import Iterable, Mapping

import numpy as np
from jax.sharding import Mesh

from research.measure.chips import Chip
from research.plan.collectives import Collective
from research.plan.topology import Topology


@dataclasses.dataclass(frozen=True)
class Roofline:
    """Seconds per step; `compute_s` is None if the peak for the dtype is unknown, `hbm_s` if the traffic is."""

    compute_s: float | None
    hbm_s: float | None
    links_s: float

    @property
    def times(self) -> dict[str, float]:
        """The known times by name."""
        named = {"compute": self.compute_s, "hbm": self.hbm_s, "links": self.links_s}
        return {name: seconds for name, seconds in named.items() if seconds is not None}

    @property
    def bound_by(self) -> str:
        """The name of the longest time: `compute`, `hbm` or `links`."""
        return max(self.times.items(), key=lambda item: item[1])[0]

    @property
    def step_time_s(self) -> float:
        """The longest of the three times."""
        return max(self.times.values())


def roofline(
    topology: Topology,
    dtype: str,
    hardware_flops: float,
    hbm_bytes: float | None,
    axis_bytes: Mapping[tuple[str, ...], float],
    bandwidths: Mapping[tuple[str, ...], float],
) -> Roofline:
    """The roofline of a step.

    `hardware_flops` are those of the step over all chips; bytes and `bandwidths` (`axis_bandwidths`) are per device.
    """
    chip, peak = topology.chip, topology.chip.peak_flops(dtype)
    return Roofline(
        compute_s=hardware_flops / (topology.num_chips * peak) if peak else None,
        hbm_s=None if hbm_bytes is None else hbm_bytes * chip.cores / chip.hbm_bandwidth,
        links_s=sum(count / bandwidths[axes] for axes, count in axis_bytes.items()),
    )


def axis_bandwidths(topology: Topology, mesh: Mesh, found: Iterable[Collective]) -> dict[tuple[str, ...], float]:
    """Receive bandwidth of one device, in bytes/s, along the mesh axes of each collective.

    A group of chips uses the links of the torus dimensions that it spans: both directions if the dimension is a ring,
    else one. Cores of the same chip are treated like neighbouring chips.
    """
    return {axes: _bandwidth(topology, mesh, axes) for axes in {collective.axes for collective in found}}


def _bandwidth(topology: Topology, mesh: Mesh, axes: tuple[str, ...]) -> float:
    chip = topology.chip
    if chip.torus_dims == 0:
        return chip.links * chip.link_bandwidth
    names = list(mesh.axis_names)
    group = mesh.devices.transpose(
        *[names.index(name) for name in names if name not in axes], *[names.index(name) for name in axes]
    ).reshape(-1, int(np.prod([mesh.shape[name] for name in axes])))[0]
    coordinates = np.array([_coordinates(topology, device) for device in group])
    ways = 0
    for dimension in range(chip.torus_dims):
        span = len(set(coordinates[:, dimension].tolist()))
        closed = topology.is_ring(dimension) and span == topology.shape[dimension]
        ways += 0 if span == 1 else 2 if closed else 1
    return max(1, ways) * _per_device(chip)


def _per_device(chip: Chip) -> float:
    return chip.link_bandwidth / chip.cores


def _coordinates(topology: Topology, device) -> tuple[int, ...]:
    """The coordinates of a device's chip in its slice; virtual CPU devices fill the slice in row-major order."""
    if topology.real:
        return tuple(device.coords)
    chip = list(topology.devices).index(device) // topology.chip.cores
    return tuple(int(part) for part in np.unravel_index(chip, topology.shape))
