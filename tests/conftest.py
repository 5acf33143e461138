import os
from collections.abc import Iterator

# Before torch is imported. The compiler works in this process, not in a pool of others that waits to be ended;
# processes that compute together meet on this machine alone, whatever its name resolves to.
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
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
