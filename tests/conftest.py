import os
import subprocess
import sys
from collections.abc import Iterator

# Before torch is imported. The compiler works in this process, not in a pool of others that waits to be ended;
# processes that compute together meet on this machine alone, whatever its name resolves to.
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
if sys.platform == "linux":
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")

import pytest
import torch
from hypothesis import HealthCheck, settings

# The same examples each time, so that what fails fails again. HYPOTHESIS_PROFILE=search draws new ones.
_ALIKE = {
    "deadline": None,
    "max_examples": 40,
    "suppress_health_check": [
        HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large,
    ],
}  # fmt: skip
settings.register_profile("same", derandomize=True, database=None, **_ALIKE)
settings.register_profile("search", print_blob=True, **_ALIKE)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))


# -- tests in processes of their own -----------------------------------------------------------------------------------

#: set in the process of a test that is marked alone
_ALONE = "SKIPWAY_TEST_ALONE"
_STATUS = pytest.StashKey[int]()


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a test that is marked ``alone`` in a process of its own.

    Of some thousand ``DistributedDataParallel`` of plain torch, one waits forever when it is freed, in torch 2.13. A
    process that hangs is ended and begun once more.
    """
    if not pyfuncitem.get_closest_marker("alone") or os.environ.get(_ALONE):
        return None
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", pyfuncitem.nodeid]
    root, own = pyfuncitem.config.rootpath, {**os.environ, _ALONE: "1"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=100, cwd=root, env=own)
    except subprocess.TimeoutExpired:
        done = subprocess.run(command, capture_output=True, text=True, timeout=100, cwd=root, env=own)
    assert done.returncode == 0, done.stdout + done.stderr
    return True


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    session.config.stash[_STATUS] = int(exitstatus)


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """End such a process at once, with a process group that was not taken down."""
    if os.environ.get(_ALONE):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(config.stash.get(_STATUS, 1))


# -- what all tests get ------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    """Every test draws the same numbers, and leaves the generator of the others alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """Nets this small gain nothing by threads, and lose much where the machine is busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def x4() -> torch.Tensor:
    """Three rows of four features."""
    return torch.randn(3, 4)
