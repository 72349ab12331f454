"""The device mesh: four named axes whose sizes come from `config.mesh`."""

import math
from collections.abc import Mapping, Sequence

import jax
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh

from research.spec import Role, Spec, checks, field, invalid

AXES: tuple[str, ...] = ("data", "fsdp", "tensor", "sequence")
_SIZE = checks.Check(lambda size: isinstance(size, int) and (size >= 1 or size == -1), "must be 1 or more, or -1")


class MeshSpec(Spec, tag="mesh"):
    """The number of devices along each mesh axis; one axis may be -1, which takes the remaining devices."""

    data: int = field(
        default=-1, role=Role.RUNTIME, check=_SIZE, doc="data parallelism: devices with different rows of a batch"
    )
    fsdp: int = field(
        default=1,
        role=Role.RUNTIME,
        check=_SIZE,
        doc="fully sharded data parallelism: as data, with sharded parameters and optimizer state",
    )
    tensor: int = field(
        default=1, role=Role.RUNTIME, check=_SIZE, doc="tensor parallelism: devices that split heads and hidden units"
    )
    sequence: int = field(
        default=1, role=Role.RUNTIME, check=_SIZE, doc="sequence parallelism: devices that split positions"
    )

    @property
    def sizes(self) -> dict[str, int]:
        """The size of each axis, in the order of AXES."""
        return {axis: getattr(self, axis) for axis in AXES}

    def validate(self) -> None:
        """Raises FieldError if two axes are -1."""
        free = [axis for axis in AXES if getattr(self, axis) == -1]
        if len(free) > 1:
            raise invalid(self, free[1], f"but mesh.{free[0]}=-1 as well; only one axis may be -1")


def resolve(sizes: Mapping[str, int], num_devices: int) -> dict[str, int]:
    """Axis sizes in the order of `AXES`, with -1 replaced by the number of remaining devices.

    Raises ValueError when the sizes do not multiply to `num_devices`.
    """
    sizes = {axis: sizes[axis] for axis in AXES}
    given = ", ".join(f"{axis}={size}" for axis, size in sizes.items())
    if any(size < 1 and size != -1 for size in sizes.values()):
        raise ValueError(f"config.mesh ({given}): an axis size must be 1 or more, or -1 for the remaining devices")
    free = [axis for axis, size in sizes.items() if size == -1]
    fixed = math.prod(size for size in sizes.values() if size != -1)
    if len(free) > 1:
        raise ValueError(f"config.mesh ({given}): only one axis may be -1, not {' and '.join(free)}")
    if free:
        if num_devices % fixed:
            raise ValueError(
                f"config.mesh ({given}): the fixed axes take {fixed} devices, which must divide {num_devices}"
            )
        sizes[free[0]] = num_devices // fixed
    elif fixed != num_devices:
        raise ValueError(
            f"config.mesh ({given}) takes {fixed} devices, but there are {num_devices}; set config.mesh.data=-1"
        )
    return sizes


def make_mesh(
    sizes: Mapping[str, int],
    devices: Sequence[jax.Device] | None = None,  # pyright: ignore[reportInvalidTypeForm]  jaxlib has no stubs
) -> Mesh:
    """A mesh over `devices` (default: all), which may also be the devices of a topology that is not attached.

    Raises ValueError when the sizes do not multiply to the devices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = resolve(sizes, len(devices))
    # jax.make_mesh can split a dimension of a slice between axes (64 x 4 on 16x16) only on a v5e.
    placed = mesh_utils.create_device_mesh(tuple(sizes.values()), devices, allow_split_physical_axes=True)
    # Auto, because jax.make_mesh defaults to Explicit axes, under which every array type carries its sharding.
    return Mesh(placed, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def platform(mesh: Mesh | AbstractMesh) -> str:
    """The platform of a mesh's devices: "cpu", "gpu" or "tpu"; "abstract" if it has none."""
    return "abstract" if isinstance(mesh, AbstractMesh) else mesh.devices.flat[0].platform
