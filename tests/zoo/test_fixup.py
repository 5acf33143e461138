"""Fixup: blocks beside ones written by hand, how the net begins, and counts by formula."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from skipway import ChainError, Conv, Skip
from skipway.zoo.fixup import Bias, fixup_resnet, fixup_resnet50


@pytest.fixture
def net():
    return fixup_resnet(14)


def blocks(net):
    return [part for name, stage in net.named_children() if name.startswith("stage") for part in stage]


def test_blocks_are_those_written_by_hand(net):
    for p in net.parameters():
        nn.init.normal_(p, std=0.2)
    x = torch.randn(2, 16, 8, 8)
    for part in blocks(net):
        if isinstance(part, Skip):
            branch, (before, rest) = part, (part[0], list(part)[1:])
        else:
            branch, before, rest = part["body"], part["before"], list(part["body"])
        first, b1, _, b2, second = rest
        edge = branch.shortcuts["input->output"]
        y = first(x + before.bias)
        y = second((y + b1.bias).relu() + b2.bias) * edge.scale + edge.act[0].bias
        shortcut = x if branch is part else F.pad((x + before.bias)[:, :, ::2, ::2], (0, 0, 0, 0, 0, x.shape[1]))
        expected = (y + shortcut).relu()
        with torch.no_grad():
            x = part(x)
            assert torch.allclose(x, expected, atol=1e-4)


def test_every_block_begins_as_its_shortcut(net):
    x = torch.rand(2, 16, 8, 8)
    for part in blocks(net):
        y = part(x)
        kept = x if y.shape == x.shape else F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 0, x.shape[1]))
        assert torch.equal(y, kept)
        x = y
    assert not net(torch.randn(1, 3, 32, 32)).any()


def test_branches_begin_smaller_in_deeper_nets():
    # L = 3n branches of m = 2 convolutions: the first of them times L ** -0.5
    for n in (1, 4):
        part = blocks(fixup_resnet(6 * n + 2))[-1]
        branch = part if isinstance(part, Skip) else part["body"]
        first, last = (layer.weight for layer in branch if isinstance(layer, Conv))
        assert first.std().item() == pytest.approx(math.sqrt(2 / (9 * 64)) * (3 * n) ** -0.5, rel=0.03)
        assert not last.any()


def test_bottlenecks_begin_half_as_large():
    net = fixup_resnet50(num_classes=3)
    part = net["stage3"][1]
    one, three, last = (layer.weight for layer in part if isinstance(layer, Conv))
    assert one.std().item() == pytest.approx(0.5 * math.sqrt(2 / 256), rel=0.03)
    assert three.std().item() == pytest.approx(0.5 * math.sqrt(2 / (9 * 256)), rel=0.03)
    assert not last.any()
    projection = net["stage3"][0]["body"].shortcuts["input->output"].path
    assert projection.weight.std().item() == pytest.approx(math.sqrt(2 / 1024), rel=0.03)


@pytest.mark.parametrize("depth", [8, 20])
def test_parameters_by_formula(depth):
    n = (depth - 2) // 6
    convolutions = 9 * (3 * 16 + 2 * n * 16 * 16)
    for end in (32, 64):
        convolutions += 9 * (end // 2 * end + (2 * n - 1) * end * end)
    assert sum(p.numel() for p in fixup_resnet(depth).parameters()) == convolutions + 5 * 3 * n + 2 + 65 * 10


def test_no_norms_are_left(net):
    assert not [m for m in net.modules() if "Norm" in type(m).__name__]
    assert sum(isinstance(m, Bias) for m in net.modules()) == 4 * 6 + 2


def test_it_learns_from_the_head_on(net):
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    x, y = torch.randn(8, 3, 32, 32), torch.arange(8)
    losses = []
    for _ in range(4):
        optimizer.zero_grad()
        losses.append(F.cross_entropy(net(x), y))
        losses[-1].backward()
        optimizer.step()
    assert losses[0].item() == pytest.approx(math.log(10))
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("depth", [9, 2, "20"])
def test_wrong_depth(depth):
    with pytest.raises(ChainError, match=r"fixup_resnet: depth= is 6n \+ 2"):
        fixup_resnet(depth)
