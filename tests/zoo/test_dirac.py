"""DiracNets: exact counts, the plain net they fold into, and the residual net they begin as."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from skipway import Chain, ChainError, DiracConv
from skipway.zoo.cost import count
from skipway.zoo.dirac import dirac, diracnet


def oracle(depth, widen, deployed, classes=10):
    """Parameters by hand: convolutions, a, b and norms, or all of them in weight and bias."""
    start = 16 * widen
    total = 27 * start + (start if deployed else 2 * start)
    for end in (16 * widen, 32 * widen, 64 * widen):
        for _ in range((depth - 4) // 3):
            total += 9 * start * end + (end if deployed else 4 * end)
            start = end
    return total + start * classes + classes


@pytest.mark.parametrize(("depth", "widen"), [(28, 10), (34, 2)])
def test_by_hand(depth, widen, built):
    for options in ({}, {"deployed": True}):
        found = count(built(f"dirac{depth}_{widen}", **options))
        assert found.parameters == oracle(depth, widen, bool(options))


def test_no_shortcuts_to_see():
    for deployed in (False, True):
        net = dirac(10, 1, deployed=deployed)
        assert not any(m.wiring for m in net.modules() if isinstance(m, Chain))
        assert sum(isinstance(m, DiracConv) for m in net.modules()) == (0 if deployed else 6)
    assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in net.modules())


def fold(net, plain):
    """Weights of the deployed net: shortcut, filters and norm of each layer in one kernel and one bias."""
    layers = [m for m in net.modules() if isinstance(m, (nn.Conv2d, nn.modules.batchnorm._BatchNorm))]
    targets = [m for m in plain.modules() if isinstance(m, nn.Conv2d)]
    for conv, norm, target in zip(layers[::2], layers[1::2], targets, strict=True):
        weight = conv.folded().weight if isinstance(conv, DiracConv) else conv.weight
        factor = norm.weight / (norm.running_var + norm.eps).sqrt()
        target.weight.data = weight.data * factor.data[:, None, None, None]
        target.bias.data = (norm.bias - norm.running_mean * factor).data
    plain["head"].load_state_dict(net["head"].state_dict())


@pytest.mark.parametrize("make", [lambda **kw: dirac(10, 2, **kw), lambda **kw: diracnet(18, num_classes=3, **kw)])
def test_it_folds_into_its_deployed_form(make):
    torch.manual_seed(0)
    net, plain = make(), make(deployed=True)
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    net.double().eval(), plain.double().eval()
    fold(net, plain)
    x = torch.randn(2, 3, 32, 32, dtype=torch.double)
    with torch.no_grad():
        assert torch.allclose(net(x), plain(x), rtol=1e-9, atol=1e-9)


def test_as_large_as_plain_18_without_norms_and_scales(built):
    net = built("diracnet18")
    weights = sum(m.weight.numel() for m in net.modules() if isinstance(m, nn.Conv2d))
    assert weights == 64 * 147 + 4 * 64 * 64 * 9 + sum(9 * w * (w // 2 + 3 * w) for w in (128, 256, 512))
    assert count(net).macs == 1_794_805_760


def test_channels_that_are_new_begin_at_zero():
    torch.manual_seed(0)
    first = dirac(10, 1)["stage2"][1]
    nn.init.zeros_(first.beta)
    out = first(torch.randn(1, 16, 8, 8))
    assert out[:, :16].any()
    assert not out[:, 16:].any()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: dirac(27), r"dirac: depth= is 6n \+ 4 .*not 27: take 22 or 28"),
        (lambda: dirac(28, 0), "widen= is the factor"),
        (lambda: diracnet(50), "depth= is 18 or 34 .*not 50"),
    ],
)
def test_what_cannot_be(make, words):
    with pytest.raises(ChainError, match=words):
        make()
