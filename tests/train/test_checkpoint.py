import copy
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from skipway.errors import CheckpointError
from skipway.train import History, load, save
from skipway.train.checkpoint import load_optimizer, pack_optimizer, read_tensors, write_tensors

Fit = Callable[..., History]


def state_of(net: nn.Module) -> dict[str, Tensor]:
    return copy.deepcopy(net.state_dict())


def unchanged(net: nn.Module, before: dict[str, Tensor]) -> bool:
    return all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def make() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3))


def test_weights_and_buffers_come_back(tmp_path: Path) -> None:
    net, other = make(), make()
    net(torch.rand(4, 1, 4, 4))
    save(net, tmp_path / "deep" / "net.safetensors")
    assert load(other, tmp_path / "deep" / "net.safetensors") is other
    assert unchanged(other, state_of(net))
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["net.safetensors"]


def test_the_file_is_plain_safetensors(tmp_path: Path) -> None:
    net = make()
    save(net, tmp_path / "net.safetensors")
    with safe_open(str(tmp_path / "net.safetensors"), framework="pt") as file:
        assert set(file.keys()) == set(net.state_dict())
    assert b"pickle" not in (tmp_path / "net.safetensors").read_bytes()
    foreign = tmp_path / "foreign.safetensors"
    save_file({k: v.contiguous() for k, v in net.state_dict().items()}, foreign)
    other = make()
    load(other, foreign)
    assert unchanged(other, state_of(net))


def test_tied_and_viewed_tensors(tmp_path: Path) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(4, 4)
            self.b = nn.Linear(4, 4)
            self.b.weight = self.a.weight
            whole = torch.rand(6)
            self.register_buffer("left", whole[:4])
            self.register_buffer("right", whole[2:])
            self.register_buffer("turned", torch.rand(3, 2).t())
            self.register_buffer("nothing", torch.zeros(0))
            self.register_buffer("more_nothing", torch.zeros(0))

    net, other = Tied(), Tied()
    save(net, tmp_path / "net.safetensors")
    assert sum(name.endswith("weight") for name in read_tensors(tmp_path / "net.safetensors")[0]) == 1
    load(other, tmp_path / "net.safetensors")
    assert unchanged(other, state_of(net))
    assert other.a.weight is other.b.weight


def test_extra_state_is_stored_as_plain_data_or_refused(tmp_path: Path) -> None:
    class Extra(nn.Linear):
        kept: Any = None

        def get_extra_state(self) -> Any:
            return self.kept

        def set_extra_state(self, state: Any) -> None:
            self.kept = state

    net, other = Extra(2, 2), Extra(2, 2)
    net.kept = {"seen": [1, 2]}
    save(net, tmp_path / "net.safetensors")
    load(other, tmp_path / "net.safetensors")
    assert other.kept == {"seen": [1, 2]}
    net.kept = object()
    with pytest.raises(CheckpointError, match=r"_extra_state.*without pickling"):
        save(net, tmp_path / "net.safetensors")


def test_a_misfit_lists_everything_and_loads_nothing(tmp_path: Path) -> None:
    save(nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2), nn.PReLU()), tmp_path / "net.safetensors")
    other = nn.Sequential(nn.Linear(4, 3), nn.Linear(5, 2), nn.Identity(), nn.Linear(2, 2))
    before = state_of(other)
    with pytest.raises(CheckpointError) as caught:
        load(other, tmp_path / "net.safetensors")
    said = str(caught.value)
    assert "missing: 3.weight, 3.bias" in said
    assert "unexpected: 2.weight" in said
    assert "mis-shaped: 1.weight is (2, 3) in the file and (2, 5) in the net" in said
    assert unchanged(other, before)


@pytest.mark.parametrize("harm", ["cut", "empty", "flip", "header", "text"])
def test_a_harmed_file_is_named(tmp_path: Path, harm: str) -> None:
    path = tmp_path / "net.safetensors"
    save(make(), path)
    data = bytearray(path.read_bytes())
    if harm == "cut":
        data = data[:-7]
    elif harm == "empty":
        data = bytearray()
    elif harm == "flip":
        data[-3] ^= 1
    elif harm == "header":
        data[4] ^= 0xFF
    else:
        data = bytearray(b"not a checkpoint at all")
    path.write_bytes(data)
    net = make()
    before = state_of(net)
    with pytest.raises(CheckpointError, match=r"net.safetensors is corrupt"):
        load(net, path)
    assert unchanged(net, before)


def test_a_missing_file_and_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no file .*nothing.safetensors"):
        load(make(), tmp_path / "nothing.safetensors")
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        load(make(), tmp_path)
    with pytest.raises(CheckpointError, match="it is a folder"):
        save(make(), tmp_path)


def test_an_unknown_format_is_not_guessed_at(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    write_tensors(path, {"a": torch.ones(1)}, {})
    path.write_bytes(path.read_bytes().replace(b"skipway-1", b"skipway-9"))
    with pytest.raises(CheckpointError, match="format 'skipway-9'"):
        read_tensors(path)


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    path = tmp_path / "net.safetensors"
    first, second = make(), make()
    save(first, path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        with pytest.raises(CheckpointError, match=r"cannot write .*net.safetensors .*No space left on device"):
            save(second, path)
    assert [p.name for p in tmp_path.iterdir()] == ["net.safetensors"]
    load(second, path)
    assert unchanged(second, state_of(first))


@pytest.mark.skipif(sys.platform == "win32", reason="no limits on files")
def test_a_disk_that_ends_in_the_middle_of_a_write(tmp_path: Path) -> None:
    """A real limit on the size of files, so that the write stops half-way."""
    code = """
import resource, signal, sys
from torch import nn
from skipway.errors import CheckpointError
from skipway.train import load, save
path = sys.argv[1]
save(nn.Linear(10, 10), path)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
try:
    save(nn.Linear(1000, 1000), path)
except CheckpointError as error:
    print(error)
load(nn.Linear(10, 10), path)
print("good")
"""
    path = tmp_path / "net.safetensors"
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert "cannot write" in done.stdout
    assert done.stdout.endswith("good\n")
    assert [p.name for p in tmp_path.iterdir()] == ["net.safetensors"]


@pytest.mark.parametrize(
    "make_optimizer",
    [
        lambda p: torch.optim.AdamW(p, lr=0.1, fused=True),
        lambda p: torch.optim.AdamW(p, lr=torch.tensor(0.1), amsgrad=True, foreach=False),
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, fused=True),
        lambda p: torch.optim.SGD(p, lr=0.1),
        lambda p: torch.optim.RMSprop(p, lr=0.1, centered=True),
        lambda p: torch.optim.Adagrad(p, lr=0.1),
        lambda p: torch.optim.Rprop(p, lr=0.1),
        lambda p: torch.optim.NAdam(p, lr=0.1),
    ],
)
def test_optimizers_go_on_to_the_bit(tmp_path: Path, make_optimizer: Callable[..., torch.optim.Optimizer]) -> None:
    def step(net: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        net(x).square().mean().backward()
        optimizer.step()

    x = torch.rand(5, 3, 6, 6)
    # weights in another memory order than the file's: fused kernels walk through memory as it lies
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(64, 2)).to(memory_format=torch.channels_last)
    other = copy.deepcopy(net)
    optimizer = make_optimizer(net.parameters())
    for _ in range(3):
        step(net, optimizer)
    optimizer.param_groups[0]["lr"] *= 0.5
    write_tensors(tmp_path / "o.safetensors", *pack_optimizer(optimizer))
    other.load_state_dict(net.state_dict())
    again = make_optimizer(other.parameters())
    load_optimizer(again, *read_tensors(tmp_path / "o.safetensors"), "here")
    for _ in range(3):
        step(net, optimizer)
        step(other, again)
    assert unchanged(other, state_of(net))
    assert type(again.param_groups[0].get("betas")) is type(optimizer.param_groups[0].get("betas"))


def test_a_run_folder_can_be_loaded(tmp_path: Path, net: nn.Module, blobs: Any, quick: Fit) -> None:
    quick(net, blobs, run=tmp_path / "run")
    other = copy.deepcopy(net)
    with torch.no_grad():
        for p in other.parameters():
            p.zero_()
    load(other, tmp_path / "run")
    assert unchanged(other, state_of(net))


def test_what_a_run_writes(tmp_path: Path, net: nn.Module, blobs: Any, quick: Fit) -> None:
    run = tmp_path / "runs" / "x"
    history = quick(net, blobs, blobs, run=str(run), epochs=3)
    assert sorted(p.name for p in run.iterdir()) == [
        "chain.txt", "checkpoint-0002.safetensors", "checkpoint-0003.safetensors", "config.json", "curve.png",
        "metrics.jsonl",
    ]  # fmt: skip
    config = json.loads((run / "config.json").read_text())
    assert config["options"]["batch"] == 20
    assert config["options"]["optimizer"]["kind"] == "AdamW"
    assert config["net"]["0.weight"] == "float32 (8, 4)"
    assert [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()] == history.rows
    assert (run / "chain.txt").read_text() == f"{net}\n"
    assert (run / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_state_that_cannot_be_stored_is_told_before_the_first_epoch(tmp_path: Path, blobs: Any, quick: Fit) -> None:
    class Odd(nn.Linear):
        def get_extra_state(self) -> Any:
            return object()

        def set_extra_state(self, state: Any) -> None:
            pass

    with pytest.raises(CheckpointError, match="_extra_state"):
        quick(Odd(4, 3), blobs, run=tmp_path / "run")
    assert not (tmp_path / "run").exists()
