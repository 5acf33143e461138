"""Squeeze-and-excitation as the gain of a branch."""

from __future__ import annotations

import pytest
import torch

from skipway import Chain, ChainError, Conv, Dense, Skip, SqueezeExcite


def test_it_is_its_formula():
    torch.manual_seed(0)
    net = Skip(Conv(8, 8, 3, padding=1), scale=SqueezeExcite(4))
    x = torch.randn(3, 8, 5, 5)
    gain, body = net.shortcuts["input->output"].scale, net[0](x)
    inner = torch.relu(body.mean((2, 3)) @ gain.squeeze.weight.T + gain.squeeze.bias)
    weight = torch.sigmoid(inner @ gain.excite.weight.T + gain.excite.bias)
    assert torch.allclose(net(x), x + body * weight[:, :, None, None], atol=1e-6)


@pytest.mark.parametrize("size", [(), (5,), (5, 4), (3, 4, 2)])
def test_over_any_number_of_dimensions(size):
    body = Conv(8, 8, 1, dims=len(size)) if size else Dense(8, 8)
    net = Skip(body, scale=SqueezeExcite(2))
    assert net(torch.randn(2, 8, *size)).shape == (2, 8, *size)


def test_over_tokens_it_weighs_features():
    net = Skip(Dense(8, 8), scale=SqueezeExcite(2), input=(5, 8))
    x = torch.randn(2, 5, 8)
    one = net(x[:, :1])
    assert torch.allclose(net(x)[:, :1], one, atol=1e-6), "every token by itself"


@pytest.mark.parametrize("width", [64, 256])
def test_its_parameters(width):
    # 2 C^2 / r + C / r + C
    net = Skip(Conv(width, width, 1, bias=False), scale=SqueezeExcite(16))
    assert sum(p.numel() for p in net.shortcuts.parameters()) == 2 * width**2 // 16 + width // 16 + width


def test_it_waits_for_the_width():
    net = Chain(Skip(Conv(..., 8, 1), path="project", scale=SqueezeExcite(2)))
    assert net.build((3, 4, 4)).shortcuts is not None
    assert net(torch.zeros(1, 3, 4, 4)).shape == (1, 8, 4, 4)


def test_bad_input():
    with pytest.raises(ChainError, match="positive whole number, not 0"):
        SqueezeExcite(0)
    with pytest.raises(ChainError, match="leaves less than one of 4 channels"):
        Skip(Conv(4, 4, 1), scale=SqueezeExcite(16))
