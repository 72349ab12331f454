"""The scripts with a fake gcloud first on the PATH; see fake_gcloud.py."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tpu_scripts.fake_gcloud import kind_of

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "tpu_scripts"
SETTINGS = {
    "TPU_PROJECT": "lab-1",
    "TPU_ZONE": "us-west4-a",
    "TPU_NAME": "pod",
    "TPU_TYPE": "v5litepod-16",
    "TPU_RUNTIME": "v2-alpha-tpuv5-lite",
    "TPU_SPOT": "yes",
    "TPU_BUCKET": "gs://my-bucket",
    "TPU_PREPARE": "",
    "TPU_POLL_S": "0",
    "TPU_BACKOFF_S": "0",
}
WHERE = ["--project=lab-1", "--zone=us-west4-a"]
QUEUED = ["compute", "tpus", "queued-resources"]
VM = ["compute", "tpus", "tpu-vm"]
DELETE = [*QUEUED, "delete", "pod", *WHERE, "--force", "--quiet"]
DELETE_LINE = "gcloud " + " ".join(DELETE)


def install_fake(folder, path=os.environ["PATH"]):
    """Writes FOLDER/gcloud, which runs fake_gcloud.py; returns the variables that put it first on PATH."""
    python = [sys.executable, "-I", "-S", str(Path(__file__).parent / "fake_gcloud.py")]
    (folder / "gcloud").write_text(f'#!/bin/sh\nexec {shlex.join(python)} "$@"\n')
    (folder / "gcloud").chmod(0o755)
    return {"FAKE_GCLOUD": str(folder), "PATH": f"{folder}:{path}"}


class Cloud:
    """The account: `answers` that the fake gives, `calls` that it saw, `run` for one of the scripts."""

    def __init__(self, folder, repository):
        self.folder = folder
        self.repository = repository
        self.env = os.environ | SETTINGS | install_fake(folder)
        self.env["TPU_SETTINGS"] = str(SCRIPTS / "settings.example.sh")

    def answers(self, **kinds):
        """The answers of each kind, with `_` for a space."""
        kinds = {kind.replace("_", " "): answers for kind, answers in kinds.items()}
        (self.folder / "answers.json").write_text(json.dumps(kinds))

    def run(self, script, *words, **env):
        return subprocess.run(
            [self.repository / "tpu_scripts" / script, *words],
            env=self.env | env,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )

    @property
    def calls(self):
        file = self.folder / "calls.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    @property
    def verbs(self):
        """`create`, `scp`, `ssh start` ...: what was done, without the looking."""
        verbs = [kind_of(call) for call in self.calls]
        return [verb for verb in verbs if verb not in ("describe", "node", "ssh status")]


def make_repository(folder):
    """A git checkout with one commit that holds the scripts and little else."""
    shutil.copytree(SCRIPTS, folder / "tpu_scripts", ignore=shutil.ignore_patterns("settings.sh"))
    (folder / ".gitignore").write_text("/runs/\n")
    (folder / "main.py").write_text("old")
    (folder / "gone.py").write_text("old")
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c"]
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "first"]):
        subprocess.run([*git, *words], cwd=folder, check=True)
    return folder


@pytest.fixture(scope="session")
def repository(tmp_path_factory):
    return make_repository(tmp_path_factory.mktemp("repository"))


@pytest.fixture
def cloud(tmp_path, repository):
    return Cloud(tmp_path, repository)
