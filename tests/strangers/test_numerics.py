"""A known miscompilation of XLA is prevented or detected: `research/numerics.py`, in processes without its flag."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research import numerics
from research.interop import loader

ROOT = Path(__file__).parents[2]
WRONG = {"jax issue 39103", "xla issue 48714", "jax issue 40412", "jax issue 39257"}  # in jaxlib 0.10.2
STARTED = "import jax; jax.devices(); "  # a backend lives, as in a notebook whose first cell computed something


def python(*words, flags="", cache=None, cwd=ROOT):
    """A fresh process in which XLA_FLAGS is `flags`."""
    env = os.environ | {"XLA_FLAGS": flags, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    env |= {"XDG_CACHE_HOME": str(cache)} if cache else {}
    return subprocess.run([sys.executable, *map(str, words)], env=env, cwd=cwd, capture_output=True, text=True)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def shielded(cache):
    """A process that imports the library, and then begins to work."""
    code = """
import os, pathlib, pkgutil, importlib
before = dict(os.environ)
import research
for package in ("train", "models", "interop", "parallel", "tasks"):
    for module in pkgutil.iter_modules([f"research/{package}"], f"research.{package}."):
        importlib.import_module(module.name)
from research import numerics
from research.cli import experiment
assert dict(os.environ) == before, "an import sets variables"
numerics.check()
print(os.environ["XLA_FLAGS"], numerics.faults())
"""
    return python("-c", code, flags="--xla_force_host_platform_device_count=2", cache=cache)


@pytest.fixture(scope="module")
def unshielded(cache, shielded, tmp_path_factory):
    """The programs that are wrong where a backend has started without the flag, and how a training run ends there."""
    code = """
import json, os, sys
from research import numerics
from research.train import trainer
from tests.train import toy
print(json.dumps([case.issue for case in numerics.cases() if not numerics._is_right(case)]))
try:
    trainer.run("train", toy.make_config(), toy.make_task(), toy.Data(), sys.argv[1])
except ValueError as error:
    print(error)
print(json.dumps([os.environ["XLA_FLAGS"], os.path.exists(sys.argv[1])]))
"""
    workdir = tmp_path_factory.mktemp("unshielded") / "run"
    ended = python("-c", STARTED + code, workdir, flags="--xla_force_host_platform_device_count=2", cache=cache)
    assert ended.returncode == 0, ended.stderr
    if "jax issue 39103" not in ended.stdout:
        pytest.skip(f"jaxlib {numerics.jaxlib_version()} computes rightly without the flag")
    return ended.stdout.splitlines()


def test_the_flag_makes_it_right_and_no_import_sets_it(shielded, cache):
    assert shielded.returncode == 0, shielded.stderr
    assert shielded.stdout == f"--xla_force_host_platform_device_count=2 {numerics.SHIELD} []\n"
    (note,) = cache.glob("tessera/numerics/*")
    assert "computes rightly" in note.read_text()


def test_without_the_flag_programs_are_wrong(unshielded):
    assert numerics.jaxlib_version() != "0.10.2" or set(json.loads(unshielded[0])) == WRONG


def test_a_run_is_refused_where_a_backend_lives_without_the_flag(unshielded):
    """Though another process, with the flag, found all right and noted it in the same cache."""
    _, message, after = unshielded
    assert f"jaxlib {numerics.jaxlib_version()} computes wrongly on this CPU: a product summed over 32,769" in message
    assert f"Set XLA_FLAGS={numerics.SHIELD} before JAX starts" in message
    assert json.loads(after) == ["--xla_force_host_platform_device_count=2", False]


def test_one_of_them_ends_the_process(unshielded):
    code = """
import sys
from research import numerics
if sys.argv[1:]:
    numerics.shield()
case = next(case for case in numerics.cases() if "40412" in case.issue)
import jax, numpy
assert numpy.allclose(jax.jit(case.function)(*case.inputs), case.expected, atol=1e-5)
"""
    assert python("-c", code).returncode == -signal.SIGSEGV
    assert python("-c", code, "shield").returncode == 0


def test_a_cache_that_cannot_be_used_is_no_error(tmp_path):
    (tmp_path / "file").touch()
    ended = python("-c", "from research import numerics; numerics.check()", cache=tmp_path / "file")
    assert (ended.returncode, ended.stderr) == (0, "")


def test_flags_of_the_user_are_kept():
    name = numerics.SHIELD.rstrip("=")
    given = ["", "--xla_dump_to=a b", f"{name}=-reduce", f"--xla_x=1 {numerics.SHIELD}", "/a/file/of/flags"]
    code = """
import os, sys
from research import numerics
for flags in sys.argv[1:]:
    os.environ["XLA_FLAGS"] = flags
    numerics.shield()
    print(os.environ["XLA_FLAGS"])
assert "jax" not in sys.modules
"""
    expected = [numerics.SHIELD, f"{given[1]} {numerics.SHIELD}", *given[2:]]
    assert python("-c", code, *given).stdout.splitlines() == expected


def test_a_command_with_the_users_own_choice_is_refused(unshielded, tmp_path):
    flags = numerics.SHIELD + "dot,reduce"
    ended = python("-m", "tests.train.toy_main", tmp_path / "run", flags=flags, cache=tmp_path)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("error: jaxlib") and ended.stderr.count("\n") == 1


def test_an_older_or_newer_jaxlib_gets_no_flag(monkeypatch):
    monkeypatch.setattr(numerics, "_running", lambda: False)
    for version, known in (("0.9.2", False), ("0.10.0", True), ("0.11.1.dev3", True), ("0.12.0", False)):
        monkeypatch.setenv("XLA_FLAGS", "")
        monkeypatch.setattr(numerics, "jaxlib_version", lambda version=version: version)
        numerics.shield()
        assert (os.environ["XLA_FLAGS"] == numerics.SHIELD) == known


def test_every_command_begins_with_the_flag():
    files = [*ROOT.glob("research/**/*.py"), *ROOT.glob("experiments/*/main.py")]
    commands = [file for file in files if 'if __name__ == "__main__":' in file.read_text()]
    assert len(commands) > 10
    for file in commands:
        text = file.read_text()
        last = (
            text if file.name == "tessera.py" else text.split('if __name__ == "__main__":')[-1]
        )  # each of its actions
        assert "command.begin()" in last or "experiment.run(main)" in last or file.name == "loader.py", file


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A program as `research.interop export` writes it, which jaxlib 0.10.2 computes wrongly."""
    jax_export = pytest.importorskip("jax.export")
    pytest.importorskip("flatbuffers", reason="flatbuffers is not installed; it comes with the extra [interop]")
    folder = tmp_path_factory.mktemp("exported")
    squares = jax.jit(lambda weights, rows: jax.vmap(lambda row: jnp.sum((weights[0] @ row) ** 2))(rows))
    shapes = [jax.ShapeDtypeStruct((3, 3), jnp.float32)], jax.ShapeDtypeStruct((32_769, 3), jnp.float32)
    (folder / "model.stablehlo").write_bytes(jax_export.export(squares)(*shapes).serialize())
    np.savez(folder / "weights.npz", matrix=np.eye(3, dtype=np.float32))
    about = {"weights": {"matrix": "float32"}, "inputs": {"rows": [["32769", "3"], "float32"]}}
    (folder / "model.json").write_text(json.dumps(about))
    rows = np.zeros((32_769, 3), np.float32)
    rows[:, 0] = np.arange(len(rows))
    np.save(folder / "rows.npy", rows)
    shutil.copy(loader.__file__, folder / "load.py")
    return folder


def test_an_exported_program_shields_itself(exported):
    ended = python("load.py", "rows.npy", "squares.npy", cwd=exported)
    assert ended.returncode == 0, ended.stderr
    np.testing.assert_array_equal(np.load(exported / "squares.npy"), np.load(exported / "rows.npy")[:, 0] ** 2)


def test_an_exported_program_is_refused_where_it_would_be_wrong(exported, unshielded):
    ended = python("load.py", "rows.npy", "wrong.npy", cwd=exported, flags=numerics.SHIELD + "dot,reduce")
    assert ended.returncode == 2 and ended.stderr.count("\n") == 1, ended.stderr
    assert f"jaxlib {numerics.jaxlib_version()} computes wrongly on this CPU" in ended.stderr
    assert not (exported / "wrong.npy").exists()
    ended = python("-c", STARTED + "from load import load; load()", cwd=exported)
    assert "ValueError: jaxlib" in ended.stderr
