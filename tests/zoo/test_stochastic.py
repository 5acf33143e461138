"""Nets whose branches are drawn: exact counts, the probabilities, and what they are at test."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from skipway import Chain, ChainError, Parallel, Skip
from skipway.zoo.cifar import cifar_resnet
from skipway.zoo.cost import count
from skipway.zoo.stochastic import shake_shake, shifted_projection, stochastic_depth_resnet


def blocks(net):
    return [block for k in (1, 2, 3) for block in net[f"stage{k}"]]


def test_blocks_that_are_there_on_average(built):
    drops = [block.wiring[0].drop for block in blocks(built("stochastic_depth_resnet110"))]
    survival = [1 - drop.p for drop in drops]
    assert len(survival) == 54
    assert sum(survival) == pytest.approx((3 * 54 - 1) / 4) == 40.25
    assert survival == pytest.approx([1 - l / 54 * 0.5 for l in range(1, 55)])  # noqa: E741
    assert {(drop.mode, drop.law) for drop in drops} == {("batch", "test-scale")}


def test_uniform_decay_and_constant_depth():
    assert [b.wiring[0].drop.p for b in blocks(stochastic_depth_resnet(8, 0.75, "uniform"))] == [0.25] * 3
    assert all(b.shortcuts["input->output"].drop is None for b in blocks(stochastic_depth_resnet(8, survival=1)))


def test_at_test_every_branch_counts_as_often_as_it_was_there():
    net = stochastic_depth_resnet(8).eval()
    x = torch.randn(2, 16, 8, 8)
    for block, p in zip(blocks(net), (1 / 6, 2 / 6, 3 / 6), strict=True):
        branch = x
        for layer in block:
            branch = layer(branch)
        path = block.shortcuts["input->output"].path
        after = torch.relu((1 - p) * branch + (x if path is None else path(x)))
        assert torch.allclose(block(x), after, atol=1e-6)
        x = after


def test_in_training_a_block_is_there_for_all_of_a_batch_or_for_none():
    torch.manual_seed(0)
    block = stochastic_depth_resnet(8)["stage3"][0]  # there with probability one half
    for layer in block:
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            layer.eval()
    x = torch.randn(4, 32, 8, 8)
    path = block.shortcuts["input->output"].path
    gone = torch.relu(path(x))
    there = 0
    for _ in range(60):
        same = [torch.equal(a, b) for a, b in zip(block(x), gone, strict=True)]
        assert all(same) or not any(same)
        there += not any(same)
    assert 15 < there < 45


def test_a_net_of_constant_depth_is_the_residual_net():
    net, known = stochastic_depth_resnet(8, survival=1).eval(), cifar_resnet(8).eval()
    known.load_state_dict(net.state_dict())
    assert count(net) == count(known)
    x = torch.randn(2, 16, 8, 8)
    assert torch.equal(net["stage1"](x), known["stage1"](x))
    # where the image gets smaller this one takes the mean, and the other every second pixel: equal pixels are the same
    large = x.repeat_interleave(2, -1).repeat_interleave(2, -2)
    assert torch.allclose(net["stage2"](large), known["stage2"](large), atol=1e-5)


def oracle(depth, width, classes=10):
    """Parameters of Shake-Shake by hand."""
    total, start = 27 * 16 + 2 * 16, 16
    for i in range(3):
        end = width << i
        for _ in range((depth - 2) // 6):
            total += 2 * (9 * (start * end + end**2) + 4 * end)
            total += start * end + 2 * end if start != end else 0
            start = end
    return total + start * classes + classes


def test_shake_shake_by_hand():
    assert oracle(26, 96) == 26_192_922
    assert oracle(26, 32) == 2_923_162
    assert oracle(8, 8) == count(shake_shake(8, 8)).parameters
    assert oracle(14, 16) == count(shake_shake(14, 16)).parameters  # as wide as the first convolution: no projection
    assert count(shake_shake(8, 16)).projections == 2


def test_two_branches_are_weighed_at_random_and_evenly_at_test():
    torch.manual_seed(0)
    block = shake_shake(14, 8)["stage1"][1]
    assert isinstance(block, Skip)
    for module in block.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
    x = torch.randn(3, 8, 6, 6)
    one, two = (branch(x) for branch in block[0].branches)
    drawn = block(x) - x
    weights = ((drawn - two) * (one - two)).flatten(1).sum(1) / (one - two).square().flatten(1).sum(1)
    assert torch.allclose(drawn, weights.view(-1, 1, 1, 1) * (one - two) + two, atol=1e-5)
    assert ((weights > 0) & (weights < 1)).all()
    assert weights.unique().numel() == 3  # for every image
    assert torch.allclose(block.eval()(x), x + (one + two) / 2, atol=1e-6)


def test_the_shortcut_sees_all_pixels():
    path = shifted_projection(4, 6, 2).eval()
    one, two = path[1].branches
    x = torch.randn(2, 4, 6, 6)
    positive = torch.relu(x)
    straight = one(positive)
    moved = F.pad(positive, (1, 0, 1, 0))[..., :-1, :-1]
    expected = torch.cat([straight, two[1](moved)], 1)
    assert torch.allclose(path[1](positive), expected, atol=1e-6)
    # of every 2 x 2 pixels the first and, in the next place, the last
    probe = torch.zeros(1, 4, 6, 6, requires_grad=True)
    path[1](probe).sum().backward()
    seen = probe.grad.abs().sum(1)[0] > 0
    assert seen[::2, ::2].all()
    assert seen[1:-1:2, 1:-1:2].all()
    assert not seen[::2, 1::2].any()


def test_what_is_drawn_can_be_said():
    net = shake_shake(8, 8, forward="even", backward="keep")
    merges = [m for m in net.modules() if isinstance(m, Parallel) and len(m.branches) == 2 and m.merge is not None]
    assert len(merges) == 3
    net.train()
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
    x = torch.randn(2, 3, 8, 8)
    assert torch.allclose(net(x), net(x))


def test_plain_twin_has_no_shortcuts():
    plain = shake_shake(8, 8).plain()
    assert not any(m.wiring for m in plain.modules() if isinstance(m, Chain))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: stochastic_depth_resnet(111),
            r"depth= is 6n \+ 2 .*not 111: take 110 or 116",
        ),
        (lambda: stochastic_depth_resnet(8, 0), r"survival= is p_L .*in \(0, 1\], not 0"),
        (lambda: stochastic_depth_resnet(8, 1.5), "survival= is p_L"),
        (lambda: stochastic_depth_resnet(8, 0.5, "exponential"), 'decay= is "linear" or "uniform"'),
        (lambda: shake_shake(27), r"shake_shake: depth= is 6n \+ 2"),
        (lambda: shake_shake(26, 31), "width= is an even number"),
        (lambda: shake_shake(26, 32, forward="keep"), 'forward is "shake" or "even"'),
    ],
)
def test_contradictions_are_told_in_the_papers_terms(make, words):
    with pytest.raises(ChainError, match=words):
        make()
