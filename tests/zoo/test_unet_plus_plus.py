"""U-Net++: the grid beside one written by hand, pruning, and deep supervision."""

from __future__ import annotations

import pytest
import torch

from skipway import ChainError, ShapeError
from skipway.zoo.encoder_decoder import unet
from skipway.zoo.unet_plus_plus import unet_plus_plus


def grid(net, x, depth):
    """All nodes by level and column, straight from the definition."""
    nodes = {}
    for j in range(depth + 1):
        for i in range(depth + 1 - j):
            if j:
                below = net[f"up{i}{j}"](nodes[i + 1, j - 1])
                into = torch.cat([below, *(nodes[i, k] for k in range(j))], 1)
            else:
                into = net[f"pool{i}"](nodes[i - 1, 0]) if i else x
            nodes[i, j] = net[f"x{i}{j}"](into)
    return nodes


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_every_node_is_that_of_the_definition(depth):
    net, x = unet_plus_plus(2, 3, width=4, depth=depth).eval(), torch.randn(2, 2, 24, 16)
    nodes = grid(net, x, depth)
    found = net.features(x, [f"x{i}{j}" for i, j in nodes])
    with torch.no_grad():
        assert len(nodes) == (depth + 1) * (depth + 2) // 2
        assert all(torch.allclose(found[f"x{i}{j}"], value, atol=1e-6) for (i, j), value in nodes.items())
        assert torch.allclose(net(x), net["head"](nodes[0, depth]), atol=1e-6)


def test_the_mean_of_all_heads():
    net, x = unet_plus_plus(1, 2, width=4, depth=3, supervised=True).eval(), torch.randn(1, 1, 16, 16)
    found = net.features(x, ["x01", "x02", "x03"])
    heads = [net.shortcuts["head1"].path, net.shortcuts["head2"].path, net["head"]]
    maps = [head(value) for head, value in zip(heads, found.values(), strict=True)]
    with torch.no_grad():
        assert torch.allclose(net(x), torch.stack(maps).mean(0), atol=1e-6)


def test_with_one_node_there_is_one_head():
    net = unet_plus_plus(width=4, depth=1, supervised=True)
    assert [s.label for s in net.wiring] == ["x00->up01"]


def test_a_net_of_less_depth_is_part_of_a_deeper_one():
    deep, pruned = unet_plus_plus(width=4, depth=3).eval(), unet_plus_plus(width=4, depth=2).eval()
    kept = {key: value for key, value in deep.state_dict().items() if key in pruned.state_dict()}
    pruned.load_state_dict(kept)
    x = torch.randn(1, 1, 16, 16)
    with torch.no_grad():
        assert torch.allclose(pruned.features(x, ["x02"])["x02"], deep.features(x, ["x02"])["x02"], atol=1e-6)


def test_with_one_halving_it_is_unet():
    grid, plain = unet_plus_plus(1, 2, width=4, depth=1), unet(1, 2, width=4, depth=1)
    plain.load_state_dict(dict(zip(plain.state_dict(), grid.state_dict().values(), strict=True)))
    x = torch.randn(1, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(grid(x), plain(x))


def test_a_size_that_does_not_halve_is_told():
    with pytest.raises(ShapeError, match=r"x\d\d->up\d\d"):
        unet_plus_plus(width=4, depth=3)(torch.zeros(1, 1, 20, 20))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"depth": 0}, "depth= is a positive whole number"),
        ({"depth": 10}, "depth= is at most 9"),
        ({"width": 2.5}, "width= is a positive whole number"),
    ],
)
def test_wrong_options(options, words):
    with pytest.raises(ChainError, match=words):
        unet_plus_plus(**options)


def test_the_plain_twin_never_goes_back_down():
    plain = unet_plus_plus(width=4, depth=2).plain()
    # halved twice, doubled three times
    assert plain(torch.zeros(1, 1, 16, 16)).shape == (1, 1, 32, 32)
