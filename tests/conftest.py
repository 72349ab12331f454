"""Every test sees 8 virtual CPU devices, and one compilation cache for the whole run."""

import os
import signal

from tests.flags import QUICK_COMPILE

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", QUICK_COMPILE) + " --xla_force_host_platform_device_count=8"
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["TESSERA_HUGE_PAGES"] = "0"  # no command of a test starts itself again

# A run in the background may have been started with SIGINT ignored, which the processes of tests would inherit.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import hypothesis
import jax
import pytest

from tests import typechecks

typechecks.install()  # nothing else imports these rooms with checks: in production annotations cost nothing

from research import numerics  # noqa: E402  after the hook, which sees what is imported from here on

numerics.shield()  # as every command does, before JAX starts

# A busy machine is slow, not wrong.
hypothesis.settings.register_profile("tessera", deadline=None)
hypothesis.settings.load_profile("tessera")


@pytest.fixture(scope="session", autouse=True)
def compilation_cache(tmp_path_factory):
    """Compiled programs are shared by the tests of one run, subprocesses included, and by no other run."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # that of the run, which the workers have in common
    path = str(folder / "compilation_cache")
    settings = {
        "jax_compilation_cache_dir": path,
        "jax_persistent_cache_min_compile_time_secs": 0.2,
    }
    for name, value in settings.items():
        jax.config.update(name, value)
        os.environ[name.upper()] = str(value)
