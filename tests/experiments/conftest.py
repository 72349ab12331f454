"""A copy of the repository in which commands may write what they like, with one folder of prepared data for all."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.flags import one_device
from tests.forking import ForkServer

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
SHARED = ROOT.parent / "shared/data"  # what the pages call $DATA
NOT_COPIED = shutil.ignore_patterns(".git", ".venv", ".*_cache", ".hypothesis", "__pycache__", "runs", "data")

NOT_INHERITED = ("MAKEFLAGS", "MAKELEVEL")


class House:
    """The copy at `root`, and `run` for a command line in it."""

    def __init__(self, root: Path, data_dir: Path, bin: Path):
        self.root, self.bin = root, bin
        # An ordinary run has no outer `make`, and one device.
        kept = {name: value for name, value in one_device().items() if name not in NOT_INHERITED}
        self.env = kept | {
            "PATH": f"{bin}:{BIN}:{os.environ['PATH']}",
            "TFDS_DATA_DIR": str(data_dir),
            "DATA": str(SHARED),
        }

    def run(self, command: str) -> subprocess.CompletedProcess:
        """The finished process of a bash command line, run in the root of the copy."""
        return subprocess.run(
            ["bash", "-c", command], cwd=self.root, env=self.env, capture_output=True, text=True, timeout=900
        )


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    """Of prepared data, which the workers of a run have in common: each set is prepared once."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    path = folder / "tensorflow_datasets"
    path.mkdir(exist_ok=True)
    return path


@pytest.fixture(scope="session")
def quick_bin(tmp_path_factory):
    """A folder with a `python` and a `tessera` that need no time to import libraries."""
    server = ForkServer(tmp_path_factory.mktemp("fork") / "bin", one_device())
    yield server.folder
    server.close()


@pytest.fixture
def house(tmp_path, data_dir, quick_bin):
    root = tmp_path / "tessera"
    top = lambda folder, names: NOT_COPIED(folder, names) - ({"data"} if Path(folder) != ROOT else set())
    shutil.copytree(ROOT, root, ignore=top)
    return House(root, data_dir, quick_bin)
