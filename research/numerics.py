"""Guards against miscompilation by XLA on CPUs: a flag that disables known-wrong kernels, and a self-test.

XLA hands sums, products and pooling on a CPU to a library, YNNPACK, whose first versions in jaxlib were wrong: with
0.10.2 a jitted product summed over 32,769 rows loses its last row, in silence. `shield` turns that library off by
`XLA_FLAGS`, which works only until JAX starts its backend, so every command calls it first. Importing this package
sets nothing. Where a backend lives already, as in a notebook, `check` decides: it runs a few programs that have been
wrong, compares them with NumPy, and refuses to go on where one of them differs. Half a second, once for each version
of jaxlib, set of XLA flags and kind of machine; what passed is noted in the user's cache directory.

Not among the programs, though they belong to the same story: jax issue 37465 (slow, not wrong), and xla issues 48713,
48715 and 48718 (crops and narrow indices that nothing here uses, wrong with and without the flag).
"""

import contextlib
import dataclasses
import functools
import hashlib
import importlib.metadata
import os
import platform as machine
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

SHIELD = "--xla_cpu_experimental_ynn_fusion_type="
_KNOWN = ((0, 10), (0, 12))  # jaxlib from and below: an XLA that does not know a flag aborts the process
_CRASHING = ("0.10.2", "0.11.0")


@dataclasses.dataclass(frozen=True)
class _Case:
    """A program that has been miscompiled: `function(*inputs)` must equal `expected` up to rounding."""

    issue: str
    what: str
    function: Callable[..., object]
    inputs: tuple[np.ndarray, ...]
    expected: np.ndarray
    crashes: bool = False  # where it is wrong, it ends the process or hangs, so it must not be run there


def shield() -> None:
    """Adds the flag to XLA_FLAGS, unless the user gave it a value, JAX runs already or jaxlib may not know it."""
    given = os.environ.get("XLA_FLAGS", "").strip()
    name = SHIELD.rstrip("=")
    if name in given or (given and not given.startswith("-")):  # XLA reads anything else as the name of a file
        return
    if _KNOWN[0] <= tuple(map(int, jaxlib_version().split(".")[:2])) < _KNOWN[1] and not _running():
        os.environ["XLA_FLAGS"] = f"{given} {SHIELD}".strip()


def jaxlib_version() -> str:
    """The installed version, without importing JAX."""
    return importlib.metadata.version("jaxlib")


def check() -> None:
    """Raises ValueError, in one line, where XLA computes a program wrongly on this CPU; sets the shield if it can."""
    shield()
    import jax

    if jax.default_backend() == "cpu":
        _check()


@functools.cache
def _check() -> None:
    note, said = _note()
    with contextlib.suppress(OSError, UnicodeDecodeError):
        if note is not None and note.read_text() == said:
            return
    wrong = faults()
    if wrong:
        raise ValueError(
            f"jaxlib {jaxlib_version()} computes wrongly on this CPU: {'; '.join(wrong)}. Set XLA_FLAGS={SHIELD} "
            "before JAX starts (in a notebook: restart the kernel, set it in the first cell), or install another jaxlib"
        )
    if note is not None:
        _write(note, said)


def faults() -> list[str]:
    """The programs that the running backend computes wrongly on this CPU."""
    import jax

    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        return [f"{case.what} ({case.issue})" for case in cases() if not _is_right(case)]


def _is_right(case: _Case) -> bool:
    import jax

    program = jax.jit(case.function).lower(*case.inputs).compile()
    if case.crashes and jaxlib_version() in _CRASHING and "__ynn_fusion" in (program.as_text() or ""):
        return False
    return np.allclose(np.asarray(program(*case.inputs)), case.expected, rtol=1e-5, atol=1e-5)


def cases() -> list[_Case]:
    """The programs, each as small as it is still wrong. The last two were seen to crash; 39352 not, on our machines."""
    import jax
    import jax.numpy as jnp

    rng = np.random.default_rng(0)
    normal = lambda *shape: rng.normal(size=shape).astype(np.float32)

    rows = np.zeros((32_769, 3), np.float32)
    rows[:, 0] = np.arange(len(rows))
    squares = lambda rows, matrix: jax.vmap(lambda row: jnp.sum((matrix @ row) ** 2))(rows)

    image = normal(64, 128)
    spread = np.full((32, 255), -np.inf, np.float32)
    spread[:, ::2] = image.reshape(32, 2, 128).max(1)

    def pool(image):
        return jax.lax.reduce_window(
            image, -jnp.inf, jax.lax.max, (2, 1), (2, 1), ((0, 0), (0, 0)), base_dilation=(1, 2)
        )

    slopes = np.linspace(-5, 5, 200, dtype=np.float32)
    left, right = normal(3, 1, 2, 2, 8, 8, 8), normal(3, 1, 2, 2, 8, 8, 8)
    seen, table = normal(2, 4, 6), normal(2, 4, 6, 3, 3, 3, 3, 3)
    weigh = lambda seen, table: jnp.sum(seen[..., None, None, None, None, None] * table, axis=2)

    return [
        _Case(
            "jax issue 39103", "a product summed over 32,769 rows", squares, (rows, np.eye(3, dtype=np.float32)),
            rows[:, 0] ** 2,
        ),
        _Case("xla issue 48714", "the maxima of a dilated array", pool, (image,), spread),
        _Case("jax issue 39352", "arctan of 200 elements", jnp.arctan, (slopes,), np.arctan(slopes)),
        _Case(
            "jax issue 40412", "a product summed in seven dimensions", lambda a, b: jnp.sum(a * b, axis=3),
            (left, right), (left * right).sum(3), crashes=True,
        ),
        _Case(
            "jax issue 39257", "a product summed in eight dimensions", weigh, (seen, table),
            np.einsum("abc,abc...->ab...", seen, table), crashes=True,
        ),
    ]  # fmt: skip


def _running() -> bool:
    """Whether JAX has started a backend in this process; it has no public name for that."""
    bridge = sys.modules.get("jax._src.xla_bridge")
    return bridge is not None and bridge.backends_are_initialized()


def _note() -> tuple[Path | None, str]:
    """The file that says that all was right, and what it must hold; None where the flags in force are not known."""
    flags = _flags_in_force()
    if flags is None:
        return None, ""
    source = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    said = f"jaxlib {jaxlib_version()}\n{_cpu()}\nflags {flags}\ntest {source}\ncomputes rightly\n"
    cache = os.environ.get("XDG_CACHE_HOME", "")
    root = Path(cache) if os.path.isabs(cache) else Path(os.path.expanduser("~")) / ".cache"
    return root / "tessera" / "numerics" / hashlib.sha256(said.encode()).hexdigest()[:16], said


def _flags_in_force() -> str | None:
    """A digest of the flags that XLA has read; the environment may have changed since."""
    try:
        from jaxlib import xla_client

        options = xla_client.CompileOptions()
        options.executable_build_options.debug_options.xla_force_host_platform_device_count = 0
        return hashlib.sha256(options.SerializeAsString()).hexdigest()
    except (ImportError, AttributeError):  # they are not public, and may go
        return None


def _cpu() -> str:
    """The kind of CPU, what it can do, and how many of it this process may use."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    kind = [machine.system(), machine.machine(), machine.processor()]
    with contextlib.suppress(OSError, UnicodeDecodeError):
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
        kind += [line for line in lines if line.startswith(("model", "flags", "Features", "CPU part"))]
    return f"{count} of {hashlib.sha256(' '.join(kind).encode()).hexdigest()}"


def _write(note: Path, said: str) -> None:
    """Whole or not at all, since other processes may do the same; a cache that cannot be written is no error."""
    with contextlib.suppress(OSError):
        note.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=note.parent)
        try:
            with os.fdopen(handle, "w") as file:
                file.write(said)
            os.replace(name, note)
        except OSError:
            os.unlink(name)
            raise
