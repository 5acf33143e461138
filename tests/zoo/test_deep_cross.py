"""Deep & Cross: the formula, the degree of what it computes, and both structures."""

from __future__ import annotations

import pytest
import torch

from skipway import ChainError
from skipway.zoo.deep_cross import crosses, deep_cross


@pytest.mark.parametrize("rank", [None, 3])
def test_cross_layers_are_their_formula(rank):
    net, x0 = crosses(8, 4, rank), torch.randn(5, 8)
    x = x0
    for layer in net:
        w = layer.weight if rank is None else layer[1].weight @ layer[0].weight
        b = layer.bias if rank is None else layer[1].bias
        x = x0 * (x @ w.T + b) + x
    with torch.no_grad():
        assert torch.allclose(net(x0), x, atol=1e-4)


def test_with_weights_of_zero_it_is_the_identity():
    net, x = crosses(8, 3), torch.randn(5, 8)
    for p in net.parameters():
        torch.nn.init.zeros_(p)
    assert torch.equal(net(x), x)


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_along_a_line_it_is_a_polynomial_of_degree_one_more_than_layers(layers):
    net, x = crosses(6, layers).double(), torch.randn(6, dtype=torch.float64)
    steps = torch.arange(layers + 3, dtype=torch.float64)[:, None]
    with torch.no_grad():
        values = net(steps * x)
    for _ in range(layers + 1):
        values = values.diff(dim=0)
    assert values.abs().max() > 1e-2
    assert values.diff(dim=0).abs().max() < 1e-9 * max(1.0, values.abs().max().item())


def test_stacked_and_parallel():
    x = torch.randn(3, 6)
    stacked = deep_cross(6, 2, hidden=(8, 4))
    beside = deep_cross(6, 2, hidden=(8, 4), structure="parallel")
    with torch.no_grad():
        assert torch.equal(stacked(x), stacked["head"](stacked["deep"](stacked["cross"](x))))
        cross, deep = beside["both"].branches
        assert torch.equal(beside(x), beside["head"](torch.cat((cross(x), deep(x)), 1)))
    assert beside["head"].in_features == 6 + 4


def test_low_rank_saves_weights():
    full, low = crosses(16, 3), crosses(16, 3, rank=2)
    count = [sum(p.numel() for p in net.parameters()) for net in (full, low)]
    assert count == [3 * (16 * 16 + 16), 3 * (2 * 2 * 16 + 16)]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"layers": 0}, "layers= is a positive whole number"),
        ({"hidden": ()}, "without dense layers there is no deep part"),
        ({"hidden": (8, 0)}, "hidden= is a positive whole number"),
        ({"structure": "both"}, '"stacked" or "parallel"'),
        ({"rank": 8}, "rank=8 saves nothing over 16 inputs"),
    ],
)
def test_wrong_options(options, words):
    with pytest.raises(ChainError, match=words):
        deep_cross(**options)
