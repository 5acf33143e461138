from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from skipway.train import History, fit


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Nets this small gain nothing by threads, and lose much where the machine is busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def blobs() -> tuple[torch.Tensor, torch.Tensor]:
    """Three classes that a line can part: 61 rows, so that batches of 20 leave one row over."""
    generator = torch.Generator().manual_seed(1)
    y = torch.arange(61) % 3
    x = torch.randn(61, 4, generator=generator) * 0.3
    x[torch.arange(61), y] += 2.0
    return x, y


@pytest.fixture
def net() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(7)
        return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3))


@pytest.fixture
def quick() -> Callable[..., History]:
    """``fit`` with everything said that a test may want to change."""
    options: dict[str, Any] = {"epochs": 2, "batch": 20, "lr": 0.01, "device": "cpu", "progress": False}

    def run(net: nn.Module, train: Any, test: Any = None, **changes: Any) -> History:
        return partial(fit, net, train, test)(**{**options, **changes})

    return run
