import subprocess
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import skipway.train.allocator as allocators
from skipway.errors import TrainError
from skipway.train import History
from skipway.train.allocator import libc

Fit = Callable[..., History]
DATA = torch.rand(40, 4), torch.arange(40) % 3
glibc = pytest.mark.skipif(not libc().startswith("glibc"), reason="needs glibc")

# blocks that are freed at once, each larger than all before it: glibc by itself gives each its own pages
FAULTS = """
import resource, sys, torch
from skipway.train.allocator import set_allocator

torch.set_num_threads(1)
set_allocator(sys.argv[1])
set_allocator(sys.argv[1])
for sizes in (range(6, 30, 4), (40, 41, 42, 43)):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for size in sizes:
        torch.empty(size << 20, dtype=torch.uint8).fill_(1)
    print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) * resource.getpagesize() >> 20)
"""


def megabytes(allocator: str) -> tuple[int, int]:
    """Megabytes that the system gave for blocks of 6 to 26 MB, 96 together, and then of 40 to 43 MB, 166 together."""
    done = subprocess.run([sys.executable, "-c", FAULTS, allocator], capture_output=True, text=True, check=True)
    small, large = (int(line) for line in done.stdout.split())
    return small, large


@glibc
def test_what_is_kept_need_not_be_asked_for_again() -> None:
    with open("/sys/kernel/mm/transparent_hugepage/enabled") as file:
        if "[always]" in file.read():
            pytest.skip("pages are given in blocks of 2 MB here")
    # a busy system may take a page back in between: far below the sum is enough
    assert megabytes("warm")[0] < 70
    small, large = megabytes("keep")
    assert small < 70
    assert large < 110


@pytest.mark.parametrize(
    ("platform", "said"), [("darwin", "macOS"), ("win32", "Windows"), ("linux", "musl"), ("sunos5", "sunos5")]
)
@pytest.mark.parametrize("allocator", ["warm", "keep"])
def test_a_platform_without_it_is_named(
    monkeypatch: pytest.MonkeyPatch, quick: Fit, allocator: str, platform: str, said: str
) -> None:
    def unknown(name: str) -> str:
        raise ValueError("unrecognized configuration name")

    # only as this module sees them: torch looks at them too
    monkeypatch.setattr(allocators, "os", SimpleNamespace(confstr=unknown, environ={}))
    monkeypatch.setattr(allocators, "sys", SimpleNamespace(platform=platform))
    net = nn.Linear(4, 3)
    before = net.weight.detach().clone()
    with pytest.raises(TrainError, match=rf"allocator='{allocator}' sets options of glibc, and this is .*{said}.*"):
        quick(net, DATA, allocator=allocator)
    assert torch.equal(net.weight, before)
    assert len(quick(net, DATA, allocator="default")) == 2


@glibc
def test_another_allocator_is_named(monkeypatch: pytest.MonkeyPatch, quick: Fit) -> None:
    monkeypatch.setenv("LD_PRELOAD", "/usr/lib/libjemalloc.so.2")
    with pytest.raises(TrainError, match=r"LD_PRELOAD=/usr/lib/libjemalloc.so.2: leave allocator out"):
        quick(nn.Linear(4, 3), DATA, allocator="keep")


@pytest.mark.parametrize(("name", "said"), [("kept", "'keep'"), ("", "warm"), (None, "warm"), (True, "warm")])
def test_a_name_that_is_none(quick: Fit, name: Any, said: str) -> None:
    with pytest.raises(TrainError, match=rf"allocator=.* is not known.*{said}"):
        quick(nn.Linear(4, 3), DATA, allocator=name)


@glibc
def test_training_comes_out_the_same(quick: Fit) -> None:
    nets = [nn.Linear(4, 3) for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    # "keep" would stay with every test after this one
    for net, allocator in zip(nets, ("default", "warm"), strict=True):
        quick(net, DATA, allocator=allocator)
    assert torch.equal(nets[0].weight, nets[1].weight)
