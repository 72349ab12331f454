"""Commands start themselves again with huge pages where they can be had."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from research import huge_pages

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    ("kernel", "environ", "expected"),
    [
        ("always [madvise] never", {}, True),
        ("[always] madvise never", {}, True),
        ("always madvise [never]", {}, False),
        ("always [madvise] never", {"GLIBC_TUNABLES": "glibc.malloc.check=1"}, False),
        ("always [madvise] never", {"TESSERA_HUGE_PAGES": "0"}, False),
    ],
)
def test_where_they_can_be_had(tmp_path, monkeypatch, kernel, environ, expected):
    monkeypatch.setattr(huge_pages.sys, "platform", "linux")
    monkeypatch.setattr(huge_pages.platform, "libc_ver", lambda: ("glibc", "2.36"))
    (tmp_path / "enabled").write_text(kernel)
    assert huge_pages.available(environ, tmp_path / "enabled") is expected
    assert not huge_pages.available(environ, tmp_path / "no such file")
    for other in (("glibc", "2.31"), ("", "")):
        monkeypatch.setattr(huge_pages.platform, "libc_ver", lambda other=other: other)
        assert not huge_pages.available(environ, tmp_path / "enabled")


def test_a_command_keeps_its_words_and_its_process(tmp_path):
    """With a kernel that has them; elsewhere it does nothing."""
    environ = {key: value for key, value in os.environ.items() if key not in ("TESSERA_HUGE_PAGES", "GLIBC_TUNABLES")}
    script = tmp_path / "command.py"
    script.write_text(
        "import os, sys\nprint(os.getpid(), flush=True)\nfrom research import huge_pages\nhuge_pages.enable()\n"
        "print(os.environ.get('GLIBC_TUNABLES'), *sys.argv[1:])\n"
    )
    command = [sys.executable, str(script), "two words", "--x=1"]
    done = subprocess.run(command, env=environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True)
    *processes, last = done.stdout.splitlines()
    assert len(set(processes)) == 1
    if huge_pages.available(environ):
        assert len(processes) == 2 and last == "glibc.malloc.hugetlb=1 two words --x=1"
    else:
        assert len(processes) == 1 and last == "None two words --x=1"
