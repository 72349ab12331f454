"""Huge pages for large allocations: glibc reads this setting when a process starts."""

import os
import platform
import sys
from collections.abc import Mapping
from pathlib import Path

TUNABLES = "GLIBC_TUNABLES"
SWITCH = "TESSERA_HUGE_PAGES"  # 0: leave the process as it is
_SETTING = "glibc.malloc.hugetlb=1"  # madvise for what malloc maps; since glibc 2.35
_KERNEL = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def available(environ: Mapping[str, str], kernel: Path = _KERNEL) -> bool:
    """Whether kernel and C library support huge pages, and `environ` neither configures nor disables them."""
    if TUNABLES in environ or environ.get(SWITCH) == "0" or not sys.platform.startswith("linux"):
        return False
    library, version = platform.libc_ver()
    if library != "glibc" or tuple(map(int, version.split(".")[:2])) < (2, 35):
        return False
    try:
        return "[never]" not in kernel.read_text()
    except OSError:
        return False


def enable() -> None:
    """Re-executes this process with huge pages if they are available; to be called before anything else.

    A training step on a CPU touches gigabytes of newly allocated memory: a ViT-S/16 step in float32 took 4.34 s on two
    cores with pages of 4 KiB, and 3.75 s with huge pages. Results do not depend on it.
    """
    if available(os.environ) and sys.orig_argv[1:2] != ["-c"]:
        os.environ[TUNABLES] = _SETTING
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
