"""Names of runs and of repositories that `report` cannot open."""

import pytest

from tests.running import run


@pytest.mark.parametrize("command", ["tables", "check"])
@pytest.mark.parametrize("root", ["none", "/dev/null"])
def test_a_root_that_is_no_repository(tmp_path, command, root):
    error = run(["research.report", command, f"--root={tmp_path / root}"]).error
    assert "is not a repository: it has no folder experiments" in error


@pytest.mark.parametrize("command", ["add", "show"])
@pytest.mark.parametrize("name", ["x" * 5000, "a\0b"])
def test_a_name_that_no_file_system_takes(command, name):
    assert "cannot be opened" in run(["research.report", command, name]).error
