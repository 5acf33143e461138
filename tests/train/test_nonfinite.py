import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD

from skipway.errors import TrainError
from skipway.train import History
from skipway.train.guard import Guard, first_bad_value

Fit = Callable[..., History]
X, Y = torch.rand(40, 4) + 0.5, torch.arange(40) % 3


class Root(nn.Module):
    """Fine until a value is negative."""

    def forward(self, x: Tensor) -> Tensor:
        return x.sqrt()


class Poison(nn.Module):
    """From its ``when``-th training pass on, what passes through is infinite."""

    def __init__(self, when: int) -> None:
        super().__init__()
        self.when, self.calls = when, 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += self.training
        return x * float("inf") if self.training and self.calls >= self.when else x


def poisoned(when: int) -> nn.Module:
    return nn.Sequential(nn.Linear(4, 5), nn.Sequential(nn.BatchNorm1d(5), Poison(when)), nn.Linear(5, 3))


def test_the_step_and_the_first_layer_are_named_and_the_weights_kept(quick: Fit) -> None:
    net = poisoned(when=6)
    kept: list[dict[str, Tensor]] = []

    class Keep:
        def on_step(self, state: Any) -> None:
            kept.append(copy.deepcopy(state.net.state_dict()))

    with pytest.raises(TrainError, match=r"not finite at step 6: .*output of layer '1.1' \(Poison\).*lr \(now 0.01\)"):
        quick(net, (X, Y), batch=10, callbacks=[Keep()])
    assert len(kept) == 5
    for name, p in net.named_parameters():
        assert torch.equal(p, kept[-1][name]), name


@pytest.mark.parametrize("steps", [5, 40])
def test_statistics_that_a_bad_forward_spoilt_are_put_back(quick: Fit, steps: int) -> None:
    net = nn.Sequential(nn.Linear(4, 5), Poison(steps), nn.BatchNorm1d(5), nn.Linear(5, 3))
    seen: list[dict[str, Tensor]] = []

    class Keep:
        def on_step(self, state: Any) -> None:
            seen.append(copy.deepcopy(state.net.state_dict()))

    with pytest.raises(TrainError, match=f"at step {steps}:"):
        quick(net, (X.repeat(12, 1), Y.repeat(12)), batch=10, callbacks=[Keep()])
    before = copy.deepcopy(net.state_dict())
    assert all(bool(torch.isfinite(t).all()) for t in before.values())
    count = int(before["2.num_batches_tracked"])
    assert steps - 32 <= count < steps
    if count:
        assert torch.equal(before["2.running_mean"], seen[count - 1]["2.running_mean"])
    assert torch.equal(before["3.weight"], seen[-1]["3.weight"])


def test_diagnosis_moves_no_statistics_and_no_random_state() -> None:
    net = nn.Sequential(nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 3), Poison(1))
    optimizer = SGD(net.parameters(), 0.1)
    before = copy.deepcopy(net.state_dict()), torch.get_rng_state()
    with pytest.raises(TrainError, match="'3'"):
        Guard(net, optimizer, torch.device("cpu")).watch(1, torch.tensor(float("nan")), (X, Y))
    assert all(torch.equal(v, before[0][k]) for k, v in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), before[1])
    assert not any(m._forward_hooks for m in net.modules())


def test_the_loss_itself(quick: Fit) -> None:
    with pytest.raises(TrainError, match="at step 1: all values in the net are finite, it is the loss itself"):
        quick(nn.Linear(4, 3), (X, Y), batch=10, loss=lambda p, y: p.sum() * float("nan"))


def test_a_parameter_that_an_update_broke_is_named_with_its_step(quick: Fit) -> None:
    net = nn.Sequential(nn.Linear(4, 3), Root())
    with torch.no_grad():
        net[0].weight.zero_()
        net[0].bias.zero_()
    # the root of 0 is finite and its slope is not
    with pytest.raises(TrainError, match=r"at step 2: parameter '0.weight' is not, since the update of step 1"):
        quick(net, (X, Y), batch=10, optimizer="sgd")
    one = nn.Sequential(nn.Linear(4, 3), Root())
    one.load_state_dict({k: torch.zeros_like(v) for k, v in one.state_dict().items()})
    with pytest.raises(TrainError, match=r"'0.weight' is not finite after the update of step 1"):
        quick(one, (X, Y), batch=40, optimizer="sgd")


def test_divergence_by_a_wild_learning_rate(quick: Fit) -> None:
    net = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 1))
    with pytest.raises(TrainError, match=r"lr \(now 1e\+10\)"):
        quick(net, (X, X[:, :1] * 5), batch=10, lr=1e10, optimizer="sgd", epochs=50)


def test_values_of_a_chain_are_asked_for_by_name() -> None:
    class Named(nn.Module):
        values = ("input", "stem", "root", "head")

        def features(self, x: Tensor, at: list[str]) -> dict[str, Tensor]:
            found = {"input": x, "stem": x - 2, "root": (x - 2).sqrt(), "head": (x - 2).sqrt() * 2}
            return {name: found[name] for name in at}

    assert first_bad_value(Named(), torch.ones(2)) == "the value 'root'"
    assert first_bad_value(Named(), torch.full((2,), 3.0)) is None
    assert first_bad_value(Named(), torch.tensor([float("nan")])) == "the input x of this batch"


def test_a_value_between_the_layers_is_laid_at_the_door_of_the_module_around_them() -> None:
    class Between(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lin = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.lin(x) / 0

    assert first_bad_value(nn.Sequential(nn.ReLU(), Between()), X) == "the output of layer '1' (Between)"


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW])
def test_looking_rarely_loses_nothing(optimizer: Callable[..., Any]) -> None:
    """The way of the accelerators: a bad step is seen late, and no step since has changed the weights."""
    net = nn.Linear(4, 3)
    made = optimizer(net.parameters(), lr=0.1, fused=True)
    guard = Guard(net, made, torch.device("cpu"), every=8)
    kept: list[Tensor] = []
    with pytest.raises(TrainError, match=r"step 11: the first value .* the input x"):  # noqa: PT012
        for step in range(1, 33):
            x = X * float("nan") if step == 11 else X
            loss = nn.functional.cross_entropy(net(x), Y)
            made.zero_grad()
            loss.backward()
            guard.watch(step, loss, (x, Y))
            made.step()
            kept.append(net.weight.detach().clone())
    assert len(kept) == 15
    assert torch.equal(net.weight, kept[9])
    assert not torch.equal(kept[8], kept[9])
    guard.forget()
    made.zero_grad()
    nn.functional.cross_entropy(net(X), Y).backward()
    made.step()
    assert not torch.equal(net.weight, kept[9])


def test_looking_rarely_changes_no_bit_of_a_good_run() -> None:
    nets = [nn.Linear(4, 3), nn.Linear(4, 3)]
    nets[1].load_state_dict(nets[0].state_dict())
    for net, every in zip(nets, (1, 4), strict=True):
        made = torch.optim.AdamW(net.parameters(), lr=0.1, fused=True)
        guard = Guard(net, made, torch.device("cpu"), every=every)
        for step in range(1, 10):
            loss = nn.functional.cross_entropy(net(X), Y)
            made.zero_grad()
            loss.backward()
            guard.watch(step, loss, (X, Y))
            made.step()
        guard.look()
    assert torch.equal(nets[0].weight, nets[1].weight)
