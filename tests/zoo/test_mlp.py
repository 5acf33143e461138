"""Nets of dense layers: exact counts, and what their formulas say."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from skipway import ChainError, relu
from skipway.zoo.cost import count
from skipway.zoo.mlp import cascade, highway, lang_witbrock, rezero_mlp, tabular_resnet


def test_counts():
    assert count(lang_witbrock()).parameters == 138
    assert count(cascade(2, 12, 1)).parameters == 117
    assert count(highway(64, 32, 100, 10)).parameters == 213_610
    assert count(highway(64, 32, 100, 10).plain()).parameters == 108_010
    assert count(tabular_resnet(8, 1, 2, 192, 384)).parameters == 299_137
    assert count(tabular_resnet(54, 7, 4, 256, 512)).parameters == 1_070_087


def test_the_plain_chain_of_lang_and_witbrock_has_81():
    assert count(lang_witbrock().plain()).parameters == 81


@pytest.mark.parametrize(("inputs", "hidden", "outputs"), [(2, 12, 1), (5, 3, 4), (1, 1, 1)])
def test_weights_of_a_cascade(inputs, hidden, outputs):
    expected = (inputs + 1) * outputs + sum(inputs + 1 + k for k in range(hidden)) + hidden * outputs
    assert count(cascade(inputs, hidden, outputs)).parameters == expected


def test_hidden_layers_of_a_highway_cost_twice():
    net = highway(6, 5, 7, 3)
    body, plain = net["body"], net.plain()["body"]
    assert count(body).parameters == 2 * count(plain).parameters
    assert count(body).macs == 2 * count(plain).macs


def test_a_closed_gate_is_the_identity():
    body = highway(6, 5, 7, 3, gate_bias=-200.0)["body"]
    x = torch.randn(4, 5)
    assert torch.equal(body(x), x)


def test_initial_weights_of_a_highway():
    torch.manual_seed(0)
    for act, gain in ((torch.tanh, 1.0), (relu, 2**0.5)):
        net = highway(10, 200, 1, 3, act=act)
        assert net["body"][0].weight.std().item() == pytest.approx(gain / 200**0.5, rel=0.03)
        gate = net["body"].shortcuts["0->1"].merge.transform
        assert gate.weight.std().item() == pytest.approx(1 / 200**0.5, rel=0.03)
        assert (gate.bias == -3).all()
        assert (net["body"][0].bias == 0).all()


def test_rezero_begins_as_its_ends():
    net = rezero_mlp(6, 5, 4, 3)
    x = torch.randn(2, 6)
    assert torch.equal(net(x), net["head"](net["stem"](x)))
    assert count(net).parameters == count(net.plain()).parameters + 4


def test_rezero_learns_its_scales_first():
    net = rezero_mlp(6, 5, 2, 3)
    net(torch.randn(8, 6)).square().sum().backward()
    body = net["body"]
    assert all(body.shortcuts[s.label].scale.grad.abs() > 0 for s in body.wiring)
    assert all((layer.weight.grad == 0).all() for layer in body)


def test_tabular_block():
    net = tabular_resnet(6, 2, blocks=1, width=4, hidden=8, dropout=0.5, last_dropout=0.25).eval()
    block = net["body"][0]
    assert [type(m).__name__ for m in block] == ["BatchNorm", "Dense", "Dropout", "Dense", "Dropout"]
    x = torch.randn(3, 4)
    norm, first, _, second, _ = block
    assert torch.allclose(block(x), x + second(first(norm(x))))
    assert not any(isinstance(m, nn.Dropout) for m in tabular_resnet(dropout=0.0).modules())


@pytest.mark.parametrize(
    "make",
    [
        lambda: highway(width=0),
        lambda: rezero_mlp(layers=-1),
        lambda: cascade(hidden=1.5),
        lambda: tabular_resnet(blocks=True),
    ],
)
def test_sizes_are_positive_whole_numbers(make):
    with pytest.raises(ChainError, match="is a positive whole number"):
        make()
