"""Training meets the chain: what a Chain offers beyond a plain module is used, and it trains to the bit like one."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from skipway import Chain, Dense, OpenChainError, ShapeError, Shortcut, Skip, relu, softmax
from skipway.errors import TrainError
from skipway.train import History, ends_in_softmax, load

Fit = Callable[..., History]
Data = tuple[Tensor, Tensor]


class Log(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x - 100).log()


@pytest.mark.parametrize(
    ("net", "expected"),
    [
        (Chain(Dense(4, 3, softmax)), True),
        (Chain(Dense(4, 3), softmax), True),
        (Chain(Chain(Dense(4, 3), nn.Softmax(-1))), True),
        (Chain(Dense(4, 3), Dense(3, 3), wiring=[Shortcut(1, 2, act=softmax)]), True),
        (Chain(Dense(4, 3), Dense(3, 3, relu)), False),
        # a sum of probabilities and something else is no probability
        (Chain(Dense(4, 3), Dense(3, 3, softmax), wiring=[Shortcut(1, 2)]), False),
        (Chain(Dense(4, 3), Dense(3, 3, softmax), wiring=[Shortcut(1, "output")]), False),
        (Chain(a=Dense(4, 3), b=Dense(3, 3, softmax), wiring=[Shortcut("a", "b")]), False),
        (Chain(Dense(4, 3), Skip(Dense(3, 3, softmax))), False),
    ],
)
def test_how_a_chain_ends(net: Chain, expected: bool) -> None:
    assert ends_in_softmax(net) is expected


def test_a_plain_chain_trains_as_nn_sequential_does(blobs: Data, quick: Fit) -> None:
    rivals = [Chain(Dense(4, 8, relu), Dense(8, 3)), nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))]
    for mine, theirs in zip(rivals[0].parameters(), rivals[1].parameters(), strict=True):
        theirs.data.copy_(mine.data)
    a, b = (quick(net, blobs, blobs, epochs=3) for net in rivals)
    for mine, theirs in zip(rivals[0].parameters(), rivals[1].parameters(), strict=True):
        assert torch.equal(mine, theirs)
    assert a.to_dict()["test_loss"] == b.to_dict()["test_loss"]


@pytest.mark.parametrize(
    ("net", "said"),
    [
        (Chain(a=Dense(4, 3), b=Log(), c=Dense(3, 3)), "the value 'b', after Log"),
        (Chain(a=Dense(4, 3), b=Skip(Dense(3, 3), Log(), Dense(3, 3)), c=Dense(3, 3)), "the value 'b.1'"),
    ],
)
def test_a_value_that_is_not_finite_goes_by_its_name(blobs: Data, quick: Fit, net: Chain, said: str) -> None:
    with pytest.raises(TrainError, match=f"step 1: the first value that is not finite is {said}"):
        quick(net, blobs)


def test_errors_of_the_chain_are_its_own(blobs: Data, quick: Fit) -> None:
    with pytest.raises(OpenChainError, match="input="):
        quick(Chain(Dense(..., 3)), blobs)
    with pytest.raises(ShapeError, match=r"Dense\(5, 3\).* takes 5 features and gets 4"):
        quick(Chain(Dense(5, 3)), blobs)


def test_the_run_holds_the_drawing_and_the_code(tmp_path: Path, blobs: Data, quick: Fit) -> None:
    def make() -> Any:
        return Chain(stem=Dense(4, 8, relu), b=Dense(8, 8, relu), head=Dense(8, 3), wiring=[Shortcut("stem", "b")])

    net, whole = make(), make()
    whole.load_state_dict(copy.deepcopy(net.state_dict()))
    quick(net, blobs, epochs=2, run=tmp_path)
    assert (tmp_path / "chain.txt").read_text() == f"{net}\n"
    assert (tmp_path / "chain.py").read_text() == f"{net!r}\n"
    other = make()
    quick(other, blobs, epochs=3, run=tmp_path, resume=True)
    quick(whole, blobs, epochs=3)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), other.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(load(make(), tmp_path).parameters(), other.parameters(), strict=True))
