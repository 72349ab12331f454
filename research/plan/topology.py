"""Topologies for ahead-of-time compilation: the devices of a TPU slice that is not attached, or virtual CPU devices.

    v5e:16x16     256 chips of a v5e pod        v5p:4x4x8     128 chips
    H100:8        a node of 8 GPUs, on virtual CPU devices only

Programs can be compiled for these devices, but not run.
"""

import contextlib
import dataclasses
import importlib.util
import math
import os
import re
from collections.abc import Sequence

import jax

from research.measure.chips import CHIPS, Chip

# The slices offered by Cloud TPU, docs.cloud.google.com/tpu/docs/{v5e,v6e}; for 3D tori, common ones.
_PLANE = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_SPACE = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16", "8x16x16", "16x16x16")
_LIBTPU_NAMES = {"v7x": "tpu7x"}


@dataclasses.dataclass(frozen=True)
class Topology:
    """A slice: its chip, its shape, and the devices to compile for.

    `real`: whether libtpu compiles for the chip itself; if not, `devices` are virtual CPU devices.
    """

    name: str
    chip: Chip
    shape: tuple[int, ...]
    devices: Sequence[jax.Device]  # pyright: ignore[reportInvalidTypeForm]  jaxlib has no stubs
    real: bool

    @property
    def is_gpu(self) -> bool:
        """Whether the chips are GPUs, which are always planned on virtual CPU devices."""
        return not self.chip.torus_dims

    @property
    def num_chips(self) -> int:
        """The number of chips; each has `chip.cores` devices."""
        return math.prod(self.shape)

    def is_ring(self, dimension: int) -> bool:
        """Whether the links along a dimension close into a ring."""
        multiple = self.chip.ring_multiple
        return bool(multiple) and self.shape[dimension] % multiple == 0


def parse(name: str) -> tuple[Chip, tuple[int, ...]]:
    """The chip and the shape of a name such as `v5e:16x16`. Raises ValueError for unknown chips and slices."""
    chip_name, _, text = name.partition(":")
    if chip_name not in CHIPS:
        raise ValueError(
            f"unknown chip {chip_name!r} in --topology={name}; choose from {', '.join(map(_example, CHIPS))}"
        )
    chip = CHIPS[chip_name]
    shape = tuple(int(size) for size in text.split("x")) if re.fullmatch(r"\d+(x\d+)*", text) else ()
    if chip.torus_dims == 0:
        if len(shape) != 1 or not 1 <= shape[0] <= chip.switch_size:
            raise ValueError(
                f"--topology={name} must be {chip_name}:N with N from 1 to {chip.switch_size}, the GPUs of a node"
            )
    elif len(shape) != chip.torus_dims or not _exists(shape):
        known = _PLANE if chip.torus_dims == 2 else _SPACE
        more = "" if chip.torus_dims == 2 else ", or other multiples of 4"
        raise ValueError(f"--topology={name}: unknown slice; for {chip_name} choose from {', '.join(known)}{more}")
    return chip, shape


def _exists(shape: tuple[int, ...]) -> bool:
    known = "x".join(map(str, shape)) in (_PLANE if len(shape) == 2 else _SPACE)
    return known or (len(shape) == 3 and all(size and size % 4 == 0 for size in shape))


def _example(name: str) -> str:
    return name + {2: ":4x4", 3: ":4x4x4"}.get(CHIPS[name].torus_dims, ":8")


def has_libtpu() -> bool:
    """Whether libtpu is installed."""
    return importlib.util.find_spec("libtpu") is not None


def prepare_environment() -> None:
    """Keeps JAX and libtpu from looking for hardware; must run before JAX first asks for devices."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    jax.config.update("jax_platforms", "cpu")
    os.environ["TPU_SKIP_MDS_QUERY"] = "1"  # do not query the metadata server of a cloud machine
    os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"  # no chip is used, so several plans may run at once
    os.environ.setdefault("TPU_STDERR_LOG_LEVEL", "3")
    os.environ.setdefault("TPU_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")  # any known type; the topology is given explicitly


def describe(name: str) -> Topology:
    """The topology called `name`. Raises ValueError for an unknown one, or too few virtual CPU devices."""
    chip, shape = parse(name)
    if chip.torus_dims and has_libtpu():
        return Topology(name, chip, shape, _tpu_devices(chip, shape), real=True)
    count = math.prod(shape) * chip.cores
    if count > len(jax.devices("cpu")):
        raise ValueError(
            f"--topology={name} needs {count} virtual CPU devices, but JAX has {len(jax.devices('cpu'))} already; "
            "start a new process"
        )
    return Topology(name, chip, shape, jax.devices("cpu")[:count], real=False)


def make_cpu_devices(count: int) -> None:
    """Makes JAX split the CPU into `count` devices, unless its backend has started already."""
    with contextlib.suppress(
        RuntimeError
    ):  # the backend has started; `describe` raises an error if there are too few devices
        jax.config.update("jax_num_cpu_devices", count)


def _tpu_devices(chip: Chip, shape: tuple[int, ...]) -> Sequence[jax.Device]:  # pyright: ignore[reportInvalidTypeForm]  jaxlib has no stubs
    from jax.experimental import topologies

    options = {}
    if math.prod(shape) == 1:
        options["chips_per_host_bounds"] = (1, 1, 1)
    if chip.name == "v4":
        options["chip_config_name"] = "megacore"  # one device per chip, as JAX on the hardware
    name = f"{_LIBTPU_NAMES.get(chip.name, chip.name)}:{'x'.join(map(str, shape))}"
    try:
        return topologies.get_topology_desc(name, "tpu", **options).devices
    except jax.errors.JaxRuntimeError as error:
        raise ValueError(f"libtpu does not support the slice {name}: {error}") from None
