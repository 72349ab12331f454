"""Guards against miscompilation by XLA on CPUs: a flag that disables known-wrong kernels, and a self-test.

On CPUs XLA uses a library, YNNPACK, for sums, products and pooling. Its first versions in jaxlib are wrong: with
0.10.2 a jitted product summed over 32,769 rows silently loses its last row. `shield` disables the library by
`XLA_FLAGS`, which JAX reads when it starts its backend, so every command calls it first. Importing this package sets
nothing. If a backend is running already, as in a notebook, `check` runs a few programs that have been miscompiled,
compares them with NumPy, and raises if one of them differs. This takes half a second, once for each version of jaxlib,
set of XLA flags and kind of machine; a passed test is recorded in the user's cache directory.

Related issues that are not tested: jax issue 37465 (slow, not wrong), and xla issues 48713, 48715 and 48718 (crops and
narrow indices, which are not used here and are wrong with and without the flag).
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
_KNOWN = ((0, 10), (0, 12))  # jaxlib >= the first, < the second has the flag; XLA aborts on an unknown flag
_CRASHING = ("0.10.2", "0.11.0")


@dataclasses.dataclass(frozen=True)
class _Case:
    """A program that has been miscompiled: `function(*inputs)` must equal `expected` up to rounding."""

    issue: str
    what: str
    function: Callable[..., object]
    inputs: tuple[np.ndarray, ...]
    expected: np.ndarray
    crashes: bool = False  # if miscompiled, it ends the process or hangs, so it must not be run then


def shield() -> None:
    """Adds the flag to XLA_FLAGS, unless it is set there, JAX is running already or jaxlib may not know it."""
    given = os.environ.get("XLA_FLAGS", "").strip()
    name = SHIELD.rstrip("=")
    if name in given or (given and not given.startswith("-")):  # else XLA takes the value as the name of a file
        return
    if _KNOWN[0] <= tuple(map(int, jaxlib_version().split(".")[:2])) < _KNOWN[1] and not _running():
        os.environ["XLA_FLAGS"] = f"{given} {SHIELD}".strip()


def jaxlib_version() -> str:
    """The installed version, without importing JAX."""
    return importlib.metadata.version("jaxlib")


def check() -> None:
    """Raises ValueError if XLA computes one of `cases` wrongly on this CPU; calls `shield` first."""
    shield()
    import jax

    if jax.default_backend() == "cpu":
        _check()


@functools.cache
def _check() -> None:
    record, content = _passed_record()
    with contextlib.suppress(OSError, UnicodeDecodeError):
        if record is not None and record.read_text() == content:
            return
    wrong = faults()
    if wrong:
        raise ValueError(
            f"jaxlib {jaxlib_version()} computes wrongly on this CPU: {'; '.join(wrong)}. Set XLA_FLAGS={SHIELD} "
            "before JAX starts (in a notebook: restart the kernel, set it in the first cell), or install another jaxlib"
        )
    if record is not None:
        _write(record, content)


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
    """The programs, each of the smallest size that is miscompiled.

    The last two have crashed; issue 39352 could not be reproduced on our machines.
    """
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
    """Whether JAX has started a backend in this process; JAX has no public function for that."""
    bridge = sys.modules.get("jax._src.xla_bridge")
    return bridge is not None and bridge.backends_are_initialized()


def _passed_record() -> tuple[Path | None, str]:
    """The path of the record of a passed test, and its expected content; None if the active flags are unknown."""
    flags = _flags_in_force()
    if flags is None:
        return None, ""
    source = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    content = f"jaxlib {jaxlib_version()}\n{_cpu()}\nflags {flags}\ntest {source}\ncomputes rightly\n"
    cache = os.environ.get("XDG_CACHE_HOME", "")
    root = Path(cache) if os.path.isabs(cache) else Path(os.path.expanduser("~")) / ".cache"
    return root / "tessera" / "numerics" / hashlib.sha256(content.encode()).hexdigest()[:16], content


def _flags_in_force() -> str | None:
    """A digest of the flags that XLA has read; the environment may have changed since."""
    try:
        from jaxlib import xla_client

        options = xla_client.CompileOptions()
        options.executable_build_options.debug_options.xla_force_host_platform_device_count = 0
        return hashlib.sha256(options.SerializeAsString()).hexdigest()
    except (ImportError, AttributeError):  # not a public API, and may be removed
        return None


def _cpu() -> str:
    """The CPU model and features, and the number of CPUs that this process may use."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    kind = [machine.system(), machine.machine(), machine.processor()]
    with contextlib.suppress(OSError, UnicodeDecodeError):
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
        kind += [line for line in lines if line.startswith(("model", "flags", "Features", "CPU part"))]
    return f"{count} of {hashlib.sha256(' '.join(kind).encode()).hexdigest()}"


def _write(record: Path, content: str) -> None:
    """Writes atomically, since other processes may do the same; a cache that cannot be written is not an error."""
    with contextlib.suppress(OSError):
        record.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=record.parent)
        try:
            with os.fdopen(handle, "w") as file:
                file.write(content)
            os.replace(name, record)
        except OSError:
            os.unlink(name)
            raise
