import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[2] / "bench"


@pytest.fixture(autouse=True, scope="package")
def scripts() -> Iterator[None]:
    """The scripts of bench/ import each other by their names."""
    before, known = list(sys.path), set(sys.modules)
    sys.path.insert(0, str(BENCH))
    yield
    sys.path[:] = before
    for name in set(sys.modules) - known:
        if getattr(sys.modules[name], "__file__", None) and Path(sys.modules[name].__file__).is_relative_to(BENCH):
            del sys.modules[name]
