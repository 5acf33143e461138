"""Dual path nets: exact counts, and that a block adds some channels and concatenates the rest."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from skipway import BatchNorm, Chain, ChainError, Conv, Dense, GlobalAvgPool, Skip, relu
from skipway.zoo.cost import count
from skipway.zoo.dual_path import PLANS, block, dual_path


def oracle(depth, classes=1000):
    """Parameters and multiply-adds for 224 x 224 pixels, by hand."""
    plan = PLANS[depth]
    stem = 3 * plan.kernel**2 * plan.stem
    parameters, macs, start, side = stem + 2 * plan.stem, 112 * 112 * stem, plan.stem, 56
    for i, (blocks, growth) in enumerate(zip(plan.blocks, plan.growth, strict=True)):
        inner, add = plan.inner << i, plan.add << i
        for k in range(blocks):
            after = side // 2 if i and not k else side
            last = inner * (add + growth)
            middle = 9 * inner * inner // plan.groups
            parameters += start * inner + middle + last + 2 * (start + 2 * inner)
            macs += side**2 * start * inner + after**2 * (middle + last)
            if not k:
                parameters += start * (add + 2 * growth) + 2 * start
                macs += after**2 * start * (add + 2 * growth)
                start = add + 2 * growth
            start += growth
            side = after
    return parameters + 2 * start + start * classes + classes, macs + start * classes


def test_by_hand():
    assert oracle(92) == (37_668_392, 6_501_684_224)
    assert oracle(68) == (12_611_602, 2_326_163_456)


@pytest.mark.parametrize("depth", [68, 92])
def test_it_has_as_many_as_by_hand(depth, built):
    found = count(built(f"dual_path{depth}"))
    assert (found.parameters, found.macs) == oracle(depth)


def value_of(block, x):
    """What the last convolution of a block makes."""
    for layer in block:
        x = layer(x)
    return x


@pytest.mark.parametrize("first", [False, True])
def test_the_first_channels_add_and_the_rest_is_concatenated(first):
    net = block(8, add=16, growth=4, groups=2, stride=2 if first else 1, first=first).build((28, 9, 9)).eval()
    x = torch.randn(2, 28, 9, 9)
    made = value_of(net, x)
    brought = net.shortcuts["input->output"].path(x) if first else x
    expected = torch.cat([brought[:, :16] + made[:, :16], brought[:, 16:], made[:, 16:]], 1)
    assert torch.equal(net(x), expected)
    assert net(x).shape[1] == (16 + 3 * 4 if first else 28 + 4)


def test_without_growth_it_would_be_a_residual_net():
    # figure 2 of the paper: all channels are added where the convolution makes no more
    net = block(8, add=28, growth=0, groups=2).build((28, 9, 9)).eval()
    x = torch.randn(2, 28, 9, 9)
    assert torch.equal(net(x), x + value_of(net, x))
    residual = Skip(
        BatchNorm(28, eps=1e-3), relu, Conv(28, 8, 1, bias=False),
        BatchNorm(8, eps=1e-3), relu, Conv(8, 8, 3, padding=1, groups=2, bias=False),
        BatchNorm(8, eps=1e-3), relu, Conv(8, 28, 1, bias=False),
    ).eval()  # fmt: skip
    residual.load_state_dict(net.state_dict())
    assert torch.equal(residual(x), net(x))


def test_the_dense_part_keeps_what_was_made():
    row = Chain(*[block(4, 8, 3, 2) for _ in range(3)]).build((14, 6, 6)).eval()
    x = torch.randn(1, 14, 6, 6)
    out = row(x)
    assert out.shape[1] == 14 + 3 * 3
    assert torch.equal(out[:, 8:14], x[:, 8:])


def test_widths(built):
    net = built("dual_path92")
    ends = [net[f"stage{k}"].plan.output.shape for k in (1, 2, 3, 4)]
    assert ends == [(336, 56, 56), (704, 28, 28), (1552, 14, 14), (2688, 7, 7)]
    assert all(m.eps == 1e-3 for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm))


def test_plain_twin_is_narrow():
    row = Chain(
        Conv(3, 8, 3, padding=1), block(4, 8, 3, 2, first=True), block(4, 8, 3, 2), GlobalAvgPool(), Dense(..., 5),
        input=(3, 8, 8),
    )  # fmt: skip
    assert row[-1].in_features == 8 + 3 * 3 + 3
    plain = row.plain()
    assert plain[-1].in_features == 8 + 3
    assert plain(torch.zeros(2, 3, 8, 8)).shape == (2, 5)


def test_what_cannot_be():
    with pytest.raises(ChainError, match=r"depth= is one of 68, 92, 98, 107, 131 .*not 90"):
        dual_path(90)
