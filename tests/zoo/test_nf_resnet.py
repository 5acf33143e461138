"""Residual nets without norms: blocks by hand, standardised weights, and the variance that is known beforehand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from skipway import ChainError
from skipway.zoo.cost import count
from skipway.zoo.nf_resnet import GAMMA, ScaledConv, Times, block, nf_resnet, scaled_relu


def drawn(net):
    for p in net.parameters():
        nn.init.normal_(p, std=0.5)
    return net.eval()


def branch(convolutions, h):
    one, three, last = convolutions
    return last(scaled_relu(three(scaled_relu(one(h)))))


def test_a_block_is_its_formula():
    net, x = drawn(block(8, 8, 1, beta=1.5, alpha=0.3)), torch.randn(2, 8, 6, 6)
    edge = net.shortcuts["input->output"]
    convolutions = [m for m in net if isinstance(m, ScaledConv)]
    expected = x + 0.3 * edge.scale * branch(convolutions, F.relu(x / 1.5) * GAMMA)
    with torch.no_grad():
        assert torch.allclose(net(x), expected, atol=1e-5)


@pytest.mark.parametrize("down", ["stride", "mean"])
def test_where_the_shape_changes_the_shortcut_starts_from_what_the_branch_reads(down):
    net, x = drawn(block(8, 16, 2, beta=1.5, alpha=0.3, down=down)), torch.randn(2, 8, 6, 6)
    edge = net["body"].shortcuts["input->output"]
    convolutions = [m for m in net["body"] if isinstance(m, ScaledConv)]
    h = F.relu(x / 1.5) * GAMMA
    if down == "stride":
        shortcut = F.conv2d(h, edge.path.standardised(), edge.path.bias, 2)
    else:
        shortcut = F.conv2d(F.avg_pool2d(h, 2), edge.path[1].standardised(), edge.path[1].bias)
    with torch.no_grad():
        assert torch.allclose(net(x), shortcut + 0.3 * edge.scale * branch(convolutions, h), atol=1e-5)


@pytest.mark.parametrize("skip_init", [True, False])
def test_a_block_begins_as_its_shortcut(skip_init):
    net, x = block(8, 8, 1, beta=1.2, skip_init=skip_init), torch.randn(2, 8, 6, 6)
    wider = block(8, 16, 1, beta=1.2, skip_init=skip_init)
    if not skip_init:
        for part in (net, wider["body"]):
            nn.init.zeros_([m for m in part if isinstance(m, ScaledConv)][-1].bias)
    with torch.no_grad():
        assert torch.equal(net(x), x)
        path = wider["body"].shortcuts["input->output"].path
        assert torch.equal(wider(x), path(scaled_relu(x * (1 / 1.2))))


def test_weights_are_standardised_however_large():
    conv = ScaledConv(32, 4, 3)
    nn.init.normal_(conv.weight, mean=3.0, std=7.0)
    nn.init.constant_(conv.gain, 2.0)
    used = conv.standardised()
    assert used.mean((1, 2, 3)).abs().max() < 1e-6
    assert torch.allclose(used.square().sum((1, 2, 3)), torch.full((4,), 4.0), atol=1e-4)
    x = torch.randn(1, 32, 5, 5)
    assert torch.equal(conv(x), F.conv2d(x, used, conv.bias))


def test_relu_keeps_the_variance_of_a_normal_law():
    assert scaled_relu(torch.randn(400_000)).var().item() == pytest.approx(1.0, rel=0.02)
    # its square has the mean gamma^2 / 2, its mean is gamma / sqrt(2 pi)
    assert GAMMA**2 / 2 - GAMMA**2 / (2 * torch.pi) == pytest.approx(1.0)


def test_the_variance_is_the_predicted_one():
    net = nf_resnet(50, 3).eval()
    for name, p in net.named_parameters():
        if name.endswith(".scale"):
            nn.init.ones_(p)
    x = torch.randn(2, 3, 96, 96)
    with torch.no_grad():
        for name, layer in net.named_children():
            if not name.startswith("stage"):
                x = layer(x) if name in ("conv", "pool") else x
                continue
            for k, part in enumerate(layer):
                x = part(x)
                # few pixels are left in the last stage, and they have much in common
                assert x.square().mean().item() == pytest.approx(1 + 0.2**2 * (k + 1), rel=0.15), (name, k)


def test_beta_undoes_the_predicted_variance(built):
    net = built("nf_resnet50", alpha=0.5)
    factors = [next(m for m in part if isinstance(m, Times)).by for part in [*net["stage1"], *net["stage2"]]]
    variances = [1, 1.25, 1.5, 1.75, 1.25, 1.5, 1.75]
    assert factors == pytest.approx([v**-0.5 for v in variances])


def test_as_many_parameters_as_with_norms(built):
    nf, normed = built("nf_resnet50"), built("resnet50")
    assert count(nf).parameters == count(normed).parameters + 16
    assert count(nf).macs == count(normed).macs


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"depth": 34}, "depth= is 50, 101 or 152"),
        ({"alpha": 0}, "alpha= is what a branch is multiplied by"),
        ({"down": "blur"}, '"stride" or "mean"'),
    ],
)
def test_wrong_options(options, words):
    with pytest.raises(ChainError, match=words):
        nf_resnet(**options)
