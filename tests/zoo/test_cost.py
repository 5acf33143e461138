"""What a net costs, counted by hand on small ones."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from skipway import (
    Chain,
    ChainError,
    Conv,
    Dense,
    Flatten,
    Gate,
    OpenChainError,
    Parallel,
    ShapeError,
    Skip,
    SqueezeExcite,
    relu,
    tie,
)
from skipway.zoo import Count, count


def test_convolutions_and_dense_layers():
    net = Chain(Conv(3, 8, 3, relu, stride=2, padding=1), Flatten(), Dense(..., 5), input=(3, 8, 6))
    assert count(net) == Count(
        parameters=(27 + 1) * 8 + (8 * 4 * 3 + 1) * 5, macs=4 * 3 * 8 * 27 + 96 * 5, depth=2, projections=0
    )


def test_groups_divide_the_work():
    assert count(Chain(Conv(8, 8, 3, groups=4, padding=1), input=(8, 5, 5))).macs == 25 * 8 * 9 * 2


def test_a_transposed_convolution_uses_every_weight_once_a_pixel_that_arrives():
    net = Chain(nn.ConvTranspose2d(4, 6, 2, stride=2), input=(4, 5, 5))
    assert count(net).macs == 25 * 4 * 6 * 4


def test_shortcuts_cost_too():
    net = Chain(Skip(Conv(2, 4, 3, stride=2, padding=1), path="project"), input=(2, 8, 8))
    assert count(net) == Count(parameters=18 * 4 + 4 + 8, macs=16 * 4 * 18 + 16 * 8, depth=1, projections=1)


def test_a_gate_costs_as_much_as_its_layer():
    gated = Chain(Skip(Dense(6, 6, relu), merge="gate"))
    assert count(gated).macs == 2 * count(gated.plain()).macs == 72


@pytest.mark.parametrize(
    "path", [Chain(Conv(2, 3, 1), relu, Conv(3, 4, 1)), nn.Sequential(Conv(2, 3, 1), Conv(3, 4, 1))]
)
def test_layers_on_the_path(path):
    net = Chain(Skip(Conv(2, 4, 3, padding=1), path=path), input=(2, 5, 5))
    assert count(net).macs == 25 * (2 * 4 * 9 + 2 * 3 + 3 * 4)
    assert (count(net).depth, count(net).projections) == (1, 1)


def test_side_by_side_the_deepest_counts():
    net = Chain(Parallel(Dense(4, 4), Chain(Dense(4, 4), Skip(Dense(4, 4), path="project"))), Dense(4, 2))
    assert count(net) == Count(parameters=3 * 20 + 10, macs=3 * 16 + 8, depth=3, projections=0)


def test_shared_weights_are_counted_once_and_work_twice():
    layer = tie(Dense(5, 5))
    assert count(Chain(layer, layer)) == Count(parameters=30, macs=50, depth=2, projections=0)


def test_another_input():
    net = Chain(Conv(1, 2, 3, padding=1))
    assert count(net, (1, 4, 4)).macs * 4 == count(net, (1, 8, 8)).macs
    assert net(torch.zeros(1, 1, 3, 3)).shape == (1, 2, 3, 3), "the chain is as it was"


def test_what_cannot_be_counted_is_told():
    with pytest.raises(ChainError, match=r"the size of what arrives at Conv\(1, 2, 3\) is not known: say it"):
        count(Chain(Conv(1, 2, 3)))
    with pytest.raises(ShapeError, match="takes 1 channels"):
        count(Chain(Conv(1, 2, 3)), (2, 4, 4))
    with pytest.raises(OpenChainError):
        count(Chain(Dense(..., 2)))

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(3, 3)

        def forward(self, x):
            return self.inner(self.inner(x))

    with pytest.raises(ChainError, match="how often it runs cannot be seen"):
        count(Chain(Dense(2, 3), Twice()))


def test_a_free_gate_costs_as_much_as_two_layers():
    coupled, free = (count(Chain(Skip(Dense(6, 6), merge=Gate(free=free)))).macs for free in (False, True))
    assert (coupled, free) == (2 * 36, 3 * 36)


def test_what_weighs_channels_costs_its_two_layers_once():
    net = Chain(Skip(Conv(8, 8, 1), scale=SqueezeExcite(2)), input=(8, 5, 5))
    assert count(net).macs == 25 * 64 + 2 * 8 * 4
