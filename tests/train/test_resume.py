import copy
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from skipway.errors import CheckpointError
from skipway.train import History, State

Fit = Callable[..., History]
Data = tuple[Tensor, Tensor]


def same(a: nn.Module, b: nn.Module) -> bool:
    theirs = b.state_dict()
    return all(torch.equal(v, theirs[k]) for k, v in a.state_dict().items())


def spoiled(net: nn.Module) -> nn.Module:
    """Another net of the same shape: a resume must bring all weights itself."""
    other = copy.deepcopy(net)
    with torch.no_grad():
        for p in other.parameters():
            p.uniform_(-1, 1)
    return other


def timeless(history: History) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k not in ("seconds", "images_per_second")} for row in history]


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_stopping_between_epochs_changes_no_bit(
    tmp_path: Path, net: nn.Module, blobs: Data, quick: Fit, optimizer: str
) -> None:
    whole, parts = copy.deepcopy(net), copy.deepcopy(net)
    expected = quick(whole, blobs, blobs, epochs=5, optimizer=optimizer)
    for epochs in (1, 3, 5):
        parts = spoiled(parts) if epochs > 1 else parts
        torch.manual_seed(epochs)
        history = quick(parts, blobs, blobs, epochs=epochs, optimizer=optimizer, run=tmp_path / "run", resume=True)
    assert same(whole, parts)
    assert timeless(history) == timeless(expected)
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("own", [None, 4])
def test_loaders_go_on_in_their_order(tmp_path: Path, net: nn.Module, blobs: Data, quick: Fit, own: int | None) -> None:
    def loader() -> DataLoader:
        generator = None if own is None else torch.Generator().manual_seed(own)
        return DataLoader(TensorDataset(*blobs), batch_size=20, shuffle=True, generator=generator)

    whole, first = copy.deepcopy(net), copy.deepcopy(net)
    quick(whole, loader(), batch=None, epochs=4)
    quick(first, loader(), batch=None, epochs=2, run=tmp_path)
    second = spoiled(net)
    quick(second, loader(), batch=None, epochs=4, run=tmp_path, resume=True)
    assert same(whole, second)


class Dead(BaseException):
    """The process is gone."""


class Disk:
    """A disk on which the process dies at the n-th call, and does nothing after that."""

    def __init__(self, patch: pytest.MonkeyPatch, at: int) -> None:
        self.calls, self.at = 0, at
        for owner, name in ((os, "fsync"), (os, "replace"), (Path, "unlink")):
            patch.setattr(owner, name, self._watch(getattr(owner, name)))

    def _watch(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            if self.calls >= self.at:
                raise Dead
            return call(*args, **kwargs)

        return watched


def test_dying_at_any_touch_of_the_disk_changes_no_bit(
    tmp_path: Path, net: nn.Module, blobs: Data, quick: Fit, monkeypatch: pytest.MonkeyPatch
) -> None:
    # drawing a curve takes longer than all the rest, and here it is done dozens of times
    monkeypatch.setattr(History, "plot", lambda self: Figure(figsize=(0.1, 0.1)))
    whole = copy.deepcopy(net)
    with monkeypatch.context() as patch:
        disk = Disk(patch, at=10**9)
        quick(whole, blobs, epochs=2, run=tmp_path / "whole")
    assert disk.calls > 15
    for at in range(1, disk.calls + 1):
        folder = tmp_path / str(at)
        broken = copy.deepcopy(net)
        with monkeypatch.context() as patch:
            Disk(patch, at)
            with pytest.raises(Dead):
                quick(broken, blobs, epochs=2, run=folder)
        begun = any(folder.glob("checkpoint-*.safetensors"))
        resumed = spoiled(net) if begun else copy.deepcopy(net)
        history = quick(resumed, blobs, epochs=2, run=folder, resume=True)
        assert same(whole, resumed), at
        rows = (folder / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(row) for row in rows] == history.rows, at
        assert sorted(p.name for p in folder.iterdir()) == sorted(p.name for p in (tmp_path / "whole").iterdir()), at


CHILD = """
import sys, time
import torch
from torch import nn
from skipway.train import fit

torch.set_num_threads(1)

class Slow:
    def on_step(self, state):
        time.sleep(0.004)

def make():
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.3), nn.Flatten(), nn.Linear(216, 4)
    )

def train(run, slow):
    g = torch.Generator().manual_seed(0)
    x, y = torch.rand(301, 1, 8, 8, generator=g), torch.arange(301) % 4
    net = make()
    fit(net, (x, y), (x, y), epochs=12, batch=20, lr=0.01, device="cpu", run=run, resume=run is not None,
        progress=False, callbacks=[Slow()] if slow else [])
    return net

if __name__ == "__main__":
    print("go", flush=True)
    train(sys.argv[1], slow=True)
"""


def test_killed_at_random_moments_it_ends_with_the_very_same_bits(tmp_path: Path) -> None:
    child: dict[str, Any] = {"__name__": "child"}
    exec(CHILD, child)
    whole = child["train"](None, slow=False)
    run = tmp_path / "run"
    script = tmp_path / "child.py"
    script.write_text(CHILD)
    kills = 0
    for _ in range(2):
        process = subprocess.Popen([sys.executable, str(script), str(run)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        had = len(list(run.glob("checkpoint*"))) if run.exists() else 0
        while process.poll() is None and (not run.exists() or len(list(run.glob("checkpoint*"))) <= min(had, 1)):
            time.sleep(0.005)
        time.sleep(random.uniform(0, 0.25))
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
        process.stdout.close()
    assert kills > 0
    assert same(whole, child["train"](str(run), slow=False))
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == list(range(1, 13))


def test_ctrl_c_keeps_the_last_epoch_and_is_raised_on(tmp_path: Path, net: nn.Module, blobs: Data, quick: Fit) -> None:
    class Interrupt:
        def on_step(self, state: State) -> None:
            if state.step == 8:
                raise KeyboardInterrupt

    whole, broken, resumed = copy.deepcopy(net), copy.deepcopy(net), spoiled(net)
    quick(whole, blobs, epochs=4)
    before = torch.get_rng_state()
    with pytest.raises(KeyboardInterrupt):
        quick(broken, blobs, epochs=4, run=tmp_path, callbacks=[Interrupt()])
    assert torch.equal(before, torch.get_rng_state())
    assert (tmp_path / "curve.png").exists()
    quick(resumed, blobs, epochs=4, run=tmp_path, resume=True)
    assert same(whole, resumed)


def test_a_full_disk_in_the_middle_of_a_run(
    tmp_path: Path, net: nn.Module, blobs: Data, quick: Fit, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, broken, resumed = copy.deepcopy(net), copy.deepcopy(net), spoiled(net)
    quick(whole, blobs, epochs=4)
    real = os.fsync

    def fill(state: State) -> None:
        def full(handle: int) -> None:
            raise OSError(28, "No space left on device")

        if state.epoch == 3:
            patch.setattr(os, "fsync", full)

    with monkeypatch.context() as patch, pytest.raises(CheckpointError, match=r"0003.safetensors .*No space left"):
        quick(broken, blobs, epochs=4, run=tmp_path, callbacks=[fill])
    assert os.fsync is real
    assert {p.name for p in tmp_path.glob("checkpoint*")} == {
        "checkpoint-0001.safetensors",
        "checkpoint-0002.safetensors",
    }
    quick(resumed, blobs, epochs=4, run=tmp_path, resume=True)
    assert same(whole, resumed)


@pytest.fixture
def run(tmp_path: Path, net: nn.Module, blobs: Data, quick: Fit) -> Path:
    quick(copy.deepcopy(net), blobs, epochs=3, run=tmp_path / "run")
    return tmp_path / "run"


def harm(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def test_a_corrupt_checkpoint_falls_back_to_the_one_before(run: Path, net: nn.Module, blobs: Data, quick: Fit) -> None:
    whole = copy.deepcopy(net)
    quick(whole, blobs, epochs=4)
    harm(run / "checkpoint-0003.safetensors")
    resumed = spoiled(net)
    with pytest.warns(UserWarning, match=r"0003.safetensors is corrupt.*falling back to .*0002.safetensors"):
        history = quick(resumed, blobs, epochs=4, run=run, resume=True)
    assert same(whole, resumed)
    assert [row["epoch"] for row in history] == [1, 2, 3, 4]
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert rows == history.rows


def test_when_no_checkpoint_is_good_all_are_named(run: Path, net: nn.Module, blobs: Data, quick: Fit) -> None:
    harm(run / "checkpoint-0003.safetensors")
    harm(run / "checkpoint-0002.safetensors")
    kept = {p.name: p.read_bytes() for p in run.iterdir()}
    with pytest.raises(CheckpointError, match=r"no checkpoint .*0003.*0002"):
        quick(net, blobs, epochs=4, run=run, resume=True)
    assert {p.name: p.read_bytes() for p in run.iterdir()} == kept


def test_a_folder_in_use_is_refused(run: Path, net: nn.Module, blobs: Data, quick: Fit) -> None:
    kept = {p.name: p.read_bytes() for p in run.iterdir()}
    with pytest.raises(CheckpointError, match="is in use: say resume=True"):
        quick(net, blobs, run=run)
    assert {p.name: p.read_bytes() for p in run.iterdir()} == kept


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"lr": 0.5}, "lr was 0.01 and is 0.5"),
        ({"batch": 10}, "batch was 20 and is 10"),
        ({"optimizer": "sgd"}, "optimizer was .*AdamW.*SGD"),
        ({"seed": 1}, "seed was 0 and is 1"),
        ({"precision": "bf16"}, "precision was 'fp32'"),
        ({"epochs": 2}, "3 epochs behind it: epochs=2"),
    ],
)
def test_a_run_with_other_options_is_refused(
    run: Path, net: nn.Module, blobs: Data, quick: Fit, changes: dict[str, Any], said: str
) -> None:
    kept = {p.name: p.read_bytes() for p in run.iterdir()}
    before = copy.deepcopy(net)
    with pytest.raises(CheckpointError, match=said):
        quick(net, blobs, run=run, resume=True, **{"epochs": 3, **changes})
    assert {p.name: p.read_bytes() for p in run.iterdir()} == kept
    assert same(net, before)


def test_other_data_and_another_network_are_refused(run: Path, net: nn.Module, blobs: Data, quick: Fit) -> None:
    x, y = blobs
    with pytest.raises(CheckpointError, match="train_rows was 61 and is 60"):
        quick(net, (x[:60], y[:60]), epochs=3, run=run, resume=True)
    with pytest.raises(CheckpointError, match=r"of another network: 0.weight was float32 \(8, 4\) and is not there"):
        quick(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), blobs, epochs=3, run=run, resume=True)


def test_a_finished_run_gives_its_history_and_weights(run: Path, net: nn.Module, blobs: Data, quick: Fit) -> None:
    whole, other = copy.deepcopy(net), spoiled(net)
    expected = quick(whole, blobs, epochs=3)
    history = quick(other, blobs, epochs=3, run=run, resume=True)
    assert timeless(history) == timeless(expected)
    assert same(whole, other)


def test_a_run_that_a_callback_ended_stays_ended(tmp_path: Path, net: nn.Module, blobs: Data, quick: Fit) -> None:
    def stop(state: State) -> None:
        state.stop = state.epoch == 2

    other = spoiled(net)
    quick(net, blobs, epochs=5, run=tmp_path, callbacks=[stop])
    assert len(quick(other, blobs, epochs=5, run=tmp_path, resume=True, callbacks=[stop])) == 2
    assert same(net, other)
    assert len(quick(other, blobs, epochs=6, run=tmp_path, resume=True)) == 6


def test_a_learning_rate_set_by_a_callback_survives(tmp_path: Path, net: nn.Module, blobs: Data, quick: Fit) -> None:
    def halve(state: State) -> None:
        for group in state.optimizer.param_groups:
            group["lr"] *= 0.5

    whole, first, second = copy.deepcopy(net), copy.deepcopy(net), spoiled(net)
    quick(whole, blobs, epochs=4, callbacks=[halve])
    quick(first, blobs, epochs=2, callbacks=[halve], run=tmp_path)
    quick(second, blobs, epochs=4, callbacks=[halve], run=tmp_path, resume=True)
    assert same(whole, second)


def test_folders_that_are_no_runs(tmp_path: Path, net: nn.Module, blobs: Data, quick: Fit) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").write_bytes(b"x")
    with pytest.raises(CheckpointError, match="not the folder of a run"):
        quick(net, blobs, run=tmp_path / "photos", resume=True)
    (tmp_path / "file").write_text("x")
    with pytest.raises(CheckpointError, match="is a file"):
        quick(net, blobs, run=tmp_path / "file")
    with pytest.raises(CheckpointError, match="cannot make the folder"):
        quick(net, blobs, run=tmp_path / "file" / "below")
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"cannot read .*config.json"):
        quick(net, blobs, run=tmp_path / "odd", resume=True)


def test_an_unwritable_folder(
    tmp_path: Path, net: nn.Module, blobs: Data, quick: Fit, monkeypatch: pytest.MonkeyPatch
) -> None:
    def locked(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    # not by chmod: the root user may write anywhere
    monkeypatch.setattr(os, "replace", locked)
    with pytest.raises(CheckpointError, match=r"cannot write .*config.json .*Permission denied"):
        quick(net, blobs, run=tmp_path / "run")
    assert list((tmp_path / "run").iterdir()) == []
