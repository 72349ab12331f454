"""The lock that allows one run at a time in a run directory.

`run.lock` records the run that holds it. On one machine a file lock is used, which the system releases when the process
ends, so that the next command can continue at once. Between machines, which may share a disk or a bucket but no file
locks, the owner writes a heartbeat counter into the file: a run that sees no new value for a whole lease takes over. No
clocks are compared. Since an owner may have been suspended for longer than that, it checks before each checkpoint that
it still holds the lock.
"""

import contextlib
import errno
import fcntl
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

NAME = "run.lock"
LEASE_S = 60.0  # without a heartbeat for this long, a run on another machine is dead; TESSERA_LEASE_S overrides it
BEATS = 4  # heartbeats per lease
SETTLE_S = 1.0  # without file locks: wait, so that of two simultaneous writers the last one wins
_TAKEN = (errno.EAGAIN, errno.EWOULDBLOCK, errno.EACCES)  # any other error: this file system has no file locks


class Lock:
    """The lock of the folder `root`; `take` acquires it."""

    def __init__(self, root: Any, say: Callable[[str], None] = lambda line: None, name: str = NAME):
        """`root` is a Path, or an epath.Path in a bucket; `say` is called with a message before a long wait.

        `name` is that of the file: locks with different names are independent.
        """
        self._path, self._say = root / name, say
        self._lease_s = _lease_s()
        self._me = {
            "run": uuid.uuid4().hex,
            "host": socket.gethostname(),
            "machine": _machine(),
            "pid": os.getpid(),
            "since": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        }
        self._beat = 0
        self._file: Any = None
        self._held = False
        self._mutex = threading.Lock()  # no heartbeat after the release
        self._released = threading.Event()

    @property
    def held(self) -> bool:
        """Whether the lock is held: taken, and neither released nor lost."""
        return self._held

    def exists(self) -> bool:
        """Whether the file exists: a process holds the lock, or was killed while it did."""
        return self._path.exists()

    def take(self) -> None:
        """Acquires the lock. Raises ValueError, in one line, if another run holds it."""
        guarded = isinstance(self._path, Path) and self._take_file_lock()
        holder = self._read()
        if holder and not (guarded and holder.get("machine") == self._me["machine"]):
            self._wait_until_dead(holder)
        self._write()
        if not guarded:
            time.sleep(min(SETTLE_S, self._lease_s))
            if (holder := self._read()).get("run") not in (None, self._me["run"]):
                raise ValueError(self._refusal(holder))
        self._held = True
        threading.Thread(target=self._keep_beating, name="run lock", daemon=True).start()

    def check(self) -> None:
        """Raises ValueError if another run has taken over. Does nothing if the lock is not held."""
        if not self._held:
            return
        holder = self._read()
        if holder.get("run") not in (None, self._me["run"]):
            self._held = False  # so that `release` does not remove the lock of the other run
            self.release()
            raise ValueError(
                f"{self._path.parent} was taken over by {_who(holder)}, because this run wrote no heartbeat for "
                f"{self._lease_s:.0f} s; this run stops"
            )

    def release(self) -> None:
        """Releases the lock."""
        with self._mutex:
            self._released.set()
            if self._held:
                with contextlib.suppress(OSError):
                    self._path.unlink()
            self._held = False
            if self._file is not None:
                os.close(self._file)
                self._file = None

    def _take_file_lock(self) -> bool:
        """Whether this file system has file locks. Raises ValueError if another process holds this one."""
        while True:
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                os.close(self._file)
                self._file = None
                if error.errno not in _TAKEN:
                    return False
                raise ValueError(self._refusal(self._read())) from None
            # The previous owner removes the file on release; a lock of the removed file is void.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(self._file), os.stat(self._path)):
                    return True
            os.close(self._file)

    def _wait_until_dead(self, holder: dict[str, Any]) -> None:
        """Waits for the duration of a lease. Raises ValueError if `holder` writes a heartbeat meanwhile."""
        where = self._path.parent
        self._say(f"{_who(holder)} may be running in {where}: waiting {self._lease_s:.0f} s for its heartbeat")
        deadline = time.monotonic() + self._lease_s
        while time.monotonic() < deadline:
            time.sleep(self._lease_s / BEATS / 5)
            if not self._path.exists():
                return
            if (now := self._read()) and now != holder:
                self.release()
                raise ValueError(self._refusal(now))

    def _refusal(self, holder: dict[str, Any]) -> str:
        return f"{self._path.parent} is in use by {_who(holder)}; wait for that run or choose another --workdir"

    def _keep_beating(self) -> None:
        while not self._released.wait(self._lease_s / BEATS):
            with self._mutex:
                if not self._held:
                    return
                # A full or temporarily unavailable disk is no reason to stop; `check` notices a takeover.
                with contextlib.suppress(OSError):
                    if self._read().get("run") == self._me["run"]:
                        self._write()

    def _read(self) -> dict[str, Any]:
        """The content of the file; {} if it is missing, empty or incomplete."""
        try:
            content = json.loads(self._path.read_bytes())
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}

    def _write(self) -> None:
        self._beat += 1
        content = json.dumps({**self._me, "beat": self._beat}).encode()
        if self._file is None:
            self._path.write_bytes(content)
            return
        # In place, since the file lock belongs to this inode; shorter than a block, so the write is atomic.
        os.pwrite(self._file, content, 0)
        os.ftruncate(self._file, len(content))


def _who(holder: dict[str, Any]) -> str:
    """`host a, process 12, since ...`."""
    if not holder:
        return "another run that has just started"
    return f"the run on {holder.get('host')}, process {holder.get('pid')}, since {holder.get('since')}"


def _machine() -> str:
    """The id of this machine, the same in all of its containers, between which file locks work."""
    path = Path("/proc/sys/kernel/random/boot_id")
    return path.read_text().strip() if path.exists() else socket.gethostname()


def _lease_s() -> float:
    text = os.environ.get("TESSERA_LEASE_S", LEASE_S)
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds < float("inf"):
        raise ValueError(f"TESSERA_LEASE_S={text!r} must be a number of seconds, more than 0")
    return seconds
