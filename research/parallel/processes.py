"""Multi-process runs: start-up, consistency checks and shutdown. With a single process everything here is a no-op.

The launcher is detected as in `jax.distributed.initialize` (Cloud TPU, SLURM, Open MPI), unless the variables
JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID are set, which take precedence.
"""

import contextlib
import ctypes
import dataclasses
import json
import os
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

import jax
import numpy as np

START_TIMEOUT_S = 300  # workers of a pod may start minutes apart; TESSERA_START_TIMEOUT_S overrides it
HEARTBEAT_TIMEOUT_S = 30  # without a heartbeat for this long, a process counts as dead, and all others exit
LOST = "another process of this run has ended or cannot be reached"

_RESUME_HINT = "the same command resumes from the last checkpoint"
_LAUNCHERS = ("ompi", "slurm", "gketpu", "gcetpu")
_EXPLICIT = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
_CLEAN_EXIT_CODES = (0, 75)  # all processes exit with these
# Messages of gloo, NCCL, the TPU runtime and the coordination service about a lost process.
_LOSS = re.compile(
    r"[Gg]loo|NCCL|[Cc]onnection (closed|reset) by peer|Socket closed|[Cc]oordination ?[Ss]ervice|heartbeat"
    r"|[Bb]arrier (failed|timed out)|UNAVAILABLE|DEADLINE_EXCEEDED"
)
_exiting = threading.Lock()  # taken by the first thread that ends this process


@dataclasses.dataclass(frozen=True)
class ProcessInfo:
    """The index of this process, the number of processes, and the address of the coordinator (process 0)."""

    coordinator: str
    count: int
    index: int


def detect_cluster() -> ProcessInfo | None:
    """Detects the launcher of this process; None for a single-process run.

    Raises ValueError if the environment defines several processes but no coordinator.
    """
    if "JAX_NUM_PROCESSES" in os.environ:
        return _explicit()
    from jax._src import clusters  # used by jax.distributed.initialize(); there is no public API

    known = {cluster.name: cluster for cluster in clusters.ClusterEnv._cluster_types}
    for cluster in (known[name] for name in _LAUNCHERS if name in known):
        if cluster.is_env_present():
            if cluster.get_process_count() == 1:
                return None
            port = os.environ.get("JAX_COORDINATOR_PORT")
            address = os.environ.get("JAX_COORDINATOR_ADDRESS") or cluster.get_coordinator_address(
                timeout_secs=_start_timeout_s(), override_coordinator_port=port
            )
            return ProcessInfo(address, cluster.get_process_count(), cluster.get_process_id())
    if _integer("OMPI_COMM_WORLD_SIZE", default=1) > 1 or "JAX_COORDINATOR_ADDRESS" in os.environ:
        # Open MPI 5 no longer provides the address of its first process.
        raise ValueError(
            f"several processes, but not all of {', '.join(_EXPLICIT)} are set; set them for every process"
        )
    return None


def _explicit() -> ProcessInfo | None:
    count = _integer("JAX_NUM_PROCESSES")
    if count == 1:
        return None
    missing = [name for name in _EXPLICIT if not os.environ.get(name)]
    if missing:
        raise ValueError(f"JAX_NUM_PROCESSES={count}, but {' and '.join(missing)} is not set")
    address, index = os.environ["JAX_COORDINATOR_ADDRESS"], _integer("JAX_PROCESS_ID")
    if not 0 <= index < count:
        raise ValueError(f"JAX_PROCESS_ID={index} must be at least 0 and less than JAX_NUM_PROCESSES={count}")
    if not re.fullmatch(r".+:\d+", address):
        raise ValueError(f"JAX_COORDINATOR_ADDRESS={address!r} must be HOST:PORT")
    return ProcessInfo(address, count, index)


def _integer(name: str, default: int | None = None) -> int:
    text = os.environ.get(name, default)
    try:
        return int("" if text is None else text)
    except ValueError:
        raise ValueError(f"{name}={text!r} must be an integer") from None


def _start_timeout_s() -> int:
    return _integer("TESSERA_START_TIMEOUT_S", START_TIMEOUT_S)


def initialize() -> None:
    """Initialises `jax.distributed`; must be called before any device is used.

    Exits with 2 and one line with the coordinator's address if not all processes connect within `START_TIMEOUT_S`.
    Raises ValueError for an unusable address or an inconsistent environment.
    """
    info = detect_cluster()
    if info is None or jax.distributed.is_initialized():
        return
    timeout_s = _start_timeout_s()
    who = f"process {info.index} of {info.count}"

    def give_up():
        reason = "the others did not connect" if info.index == 0 else "is process 0 running there, and the port open?"
        _exit(f"{who} waited {timeout_s} s for the coordinator at {info.coordinator}: {reason}", 2)

    # JAX's own time limit aborts the process with a stack trace, so it must not be the first.
    timer = threading.Timer(timeout_s, give_up)
    timer.daemon = True
    timer.start()
    explicit = "JAX_NUM_PROCESSES" in os.environ
    try:
        jax.distributed.initialize(
            info.coordinator,
            info.count,
            info.index,
            cluster_detection_method="deactivate" if explicit else None,
            initialization_timeout=timeout_s + 60,
            heartbeat_timeout_seconds=HEARTBEAT_TIMEOUT_S,
        )
    except Exception as error:  # noqa: BLE001  what the C++ below raises changes from version to version
        _exit(f"{who} cannot use the coordinator address {info.coordinator}: {error}", 2)
    finally:
        timer.cancel()
    _explain_aborts()


def is_main() -> bool:
    """Whether this is process 0, the only one that writes logs, results and messages."""
    return jax.process_index() == 0


def assert_equal_across_processes(fields: Mapping[str, Any]) -> None:
    """Raises ValueError on every process if `fields` differ between processes, naming the first few.

    Values are compared as JSON.
    """
    if jax.process_count() == 1:
        return
    from jax.experimental import multihost_utils

    _warmup_collective()
    text = np.frombuffer(json.dumps(dict(fields), default=str).encode(), np.uint8)
    lengths = multihost_utils.process_allgather(np.int32(len(text)))
    padded = np.pad(text, (0, int(lengths.max()) - len(text)))
    rows = multihost_utils.process_allgather(padded)
    everyone = [json.loads(row[:length].tobytes()) for row, length in zip(rows, lengths, strict=True)]
    lines = [line for name in sorted(set().union(*everyone)) if (line := _disagreement(name, everyone))]
    if lines:
        more = f" (and {len(lines) - 3} more)" if len(lines) > 3 else ""
        raise ValueError(f"the processes were started differently: {'; '.join(lines[:3])}{more}; give all the same")


def broadcast_from_main(value: Any) -> Any:
    """Broadcasts a JSON-serialisable `value` from process 0; a collective call."""
    if jax.process_count() == 1:
        return value
    from jax.experimental import multihost_utils

    text = np.frombuffer(json.dumps(value if is_main() else None).encode(), np.uint8)
    length = int(multihost_utils.broadcast_one_to_all(np.int32(len(text))))
    text = np.resize(text, length)  # only the content on process 0 matters
    return json.loads(np.asarray(multihost_utils.broadcast_one_to_all(text), np.uint8).tobytes())


def _warmup_collective() -> None:
    """Warms up the collectives with one sum over all devices, while the processes are synchronised.

    Gloo fails if processes reach the first collective of a group of devices more than 30 seconds apart, as can happen
    after compiling a large program on a busy machine. Later collectives wait.
    """
    devices = jax.devices()
    everywhere = jax.sharding.NamedSharding(jax.make_mesh((len(devices),), ("all",)), jax.sharding.PartitionSpec("all"))
    ones = jax.make_array_from_callback((len(devices),), everywhere, lambda index: np.ones(len(devices))[index])
    if int(jax.jit(jax.numpy.sum)(ones)) != len(devices):
        raise RuntimeError("the sum over all devices is wrong; the processes are not connected")


def _disagreement(name: str, everyone: list[dict[str, Any]]) -> str | None:
    """How a field differs, such as `train.steps is 10 on process 0, 2, 3 and 20 on process 1`; None if it does not."""
    holders: dict[str, list[str]] = {}
    for index, fields in enumerate(everyone):
        holders.setdefault(json.dumps(fields.get(name, "absent")), []).append(str(index))
    if len(holders) == 1:
        return None
    return f"{name} is " + " and ".join(f"{value} on process {', '.join(who)}" for value, who in holders.items())


@contextlib.contextmanager
def fail_fast() -> Iterator[None]:
    """Context manager around the whole of a process: if one process raises, all of them terminate at once.

    JAX's own shutdown waits minutes for missing processes. If a collective fails because another process is lost, this
    is reported in one line.
    """
    try:
        yield
    except BaseException as error:
        code = error.code if isinstance(error, SystemExit) else 1
        if not jax.distributed.is_initialized() or code is None or code in _CLEAN_EXIT_CODES:
            raise
        if lost_another(error):
            _exit(f"{LOST}; {_RESUME_HINT} ({_brief(error)})", 1)
        if not isinstance(error, SystemExit):
            traceback.print_exception(error)
        _wait_for_others(seconds=10)
        _exit(*((None, code) if isinstance(code, int) else (code, 1)))  # sys.exit(LINE) is an exit with 1


def _explain_aborts() -> None:
    """Appends an explanation to JAX's stack trace when it aborts after losing the coordinator or a heartbeat.

    A Python signal handler would not run, since `abort` does not return; a C callback does, in any thread.
    """

    def explain(_):
        _first_to_exit()
        os.write(2, f"\nerror: aborted by JAX (see above), most likely because {LOST}; {_RESUME_HINT}\n".encode())
        os._exit(1)

    global _abort_handler  # keep a reference, which ctypes does not
    _abort_handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(explain)
    ctypes.CDLL(None).signal(int(signal.SIGABRT), _abort_handler)


def lost_another(error: BaseException) -> bool:
    """Whether `error` was caused by the loss of another process.

    Decided by its text, since the same failure is raised as various types, also wrapped by libraries.
    """
    chain = [error]
    while following := chain[-1].__cause__ or chain[-1].__context__:
        chain.append(following)
    return any(isinstance(link, Exception) and _LOSS.search(str(link)) for link in chain)


def _wait_for_others(seconds: float) -> None:
    """Lets every process report its error before the coordinator exits."""
    thread = threading.Thread(target=jax.distributed.shutdown, daemon=True)
    thread.start()
    thread.join(seconds)


def _brief(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]


def _exit(line: str | None, code: int) -> NoReturn:
    """Exits without shutdown steps that could block on another process."""
    _first_to_exit()
    if line:
        print("\nerror: " + " ".join(line.split()), file=sys.stderr)  # on a line of its own, after the progress bar
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _first_to_exit() -> None:
    """Returns in the first thread that terminates this process and blocks the others."""
    if not _exiting.acquire(blocking=False):
        time.sleep(10)
