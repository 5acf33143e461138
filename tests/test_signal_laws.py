"""How values and gradients grow with depth in nets as they begin, and what the shortcuts of known nets begin as.

The laws are those of wide nets. A net is a body of blocks ``[relu, Dense]`` of one width, with He's weights
(1502.01852), so that a branch keeps the mean square of what it reads. Two ratios are measured: the mean square of the
last value over that of the first, and the norm of the gradient at the first over that at the last, for a random one
there.

What one net does scatters about the law because its weights are one draw: the logarithm of a mean square has a variance
of some ``5 L / width`` in L plain layers (1803.01719), whatever the batch. So several nets are drawn, and the mean of
the logarithms may be off by four of its own standard errors, measured, plus half of that variance, by which the mean of
a logarithm is lower than the logarithm of the mean.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable

import pytest
import torch

from skipway import (
    BatchNorm,
    Chain,
    Conv,
    Dense,
    Dropout,
    Gate,
    GlobalAvgPool,
    Learned,
    Project,
    Skip,
    every,
    relu,
    zoo,
)
from skipway.zoo.initialise import he

WIDTH = 256


def act_block() -> list:
    return [relu, Dense(WIDTH, WIDTH, bias=False)]


def norm_block() -> list:
    return [BatchNorm(WIDTH), relu, Dense(WIDTH, WIDTH, bias=False)]


def product(depth: int, gain: Callable[[int], float]) -> float:
    return math.prod(gain(layer) for layer in range(depth))


def ends(net: Chain, rows: int) -> tuple[float, float]:
    """Mean square of the output over that of the input; norm of the gradient at the input over that at the output."""
    x = torch.randn(rows, WIDTH, requires_grad=True)
    y = net(x)
    above = torch.randn_like(y)
    (below,) = torch.autograd.grad(y, x, above)
    return float((y.square().mean() / x.square().mean()).detach()), float(below.norm() / above.norm())


def agree(what: list[float], law: float, bias: float) -> None:
    """Whether the draws of a ratio scatter about the law."""
    logs = [math.log(ratio) for ratio in what]
    error = statistics.stdev(logs) / math.sqrt(len(logs))
    assert error < 0.2, f"too few draws to tell: {error:.3f}"
    assert abs(statistics.mean(logs) - math.log(law)) < 4 * error + bias, (
        f"{statistics.geometric_mean(what)}, not {law}"
    )


PI = math.pi
# name: depth, block, wiring, what the mean square grows by, what the norm of the gradient grows by
LAWS = {
    "plain": (30, act_block, (), 1.0, 1.0),
    # the norm divides by the standard deviation over the batch, sqrt(1 - 1 / pi) of the root mean square after a relu;
    # but the first one meets rows that have nothing in common, and divides by 1
    "plain + BN": (30, norm_block, (), None, (PI / (PI - 1)) ** 14.5),
    "residual": (20, act_block, every(2), 2.0**20, 2.0**10),
    "residual / sqrt(L)": (30, act_block, every(2, scale=30**-0.5), (1 + 1 / 30) ** 30, (1 + 1 / 30) ** 15),
    "halves": (20, act_block, every(2, scale=0.5, path_scale=0.5), 2.0**-20, 2.0**-10),
    "over sqrt(2)": (30, act_block, every(2, scale=0.5**0.5, path_scale=0.5**0.5), 1.0, 1.0),
    # every branch adds 1 to the mean square, 1 - 1 / pi of it to the variance over the batch, which divides gradients
    **{
        f"residual + BN, {depth}": (
            depth, norm_block, every(3), depth + 1.0, product(depth, lambda i: 1 + 1 / (1 + i * (1 - 1 / PI))) ** 0.5,
        ) for depth in (10, 30)
    },
}  # fmt: skip


@pytest.mark.parametrize("name", LAWS)
def test_a_law_at_the_beginning(name: str) -> None:
    depth, block, wiring, forward_law, backward_law = LAWS[name]
    net = Chain(*[layer for _ in range(depth) for layer in block()], wiring=wiring)
    normed = block is norm_block
    # one net treats all rows alike, so many draws of few rows; but batch norm takes its two moments from the rows
    rows, draws = (512, 4) if normed else (16, 16)
    found = [ends(he(net, "fan_in", dense=True), rows) for _ in range(draws)]
    forward, backward = ([pair[i] for pair in found] for i in (0, 1))
    bias = 2.5 * depth / WIDTH
    if forward_law is not None:
        agree(forward, forward_law, bias)
    # of 512 rows that are not quite Gaussian any more, norms are off by up to a hundredth a layer (the law: a fifth)
    agree(backward, backward_law, bias / 2 + 0.01 * depth * normed)


def test_gradients_of_scaled_residual_nets_do_not_depend_on_depth() -> None:
    found = {}
    for depth in (5, 80):
        block, wiring = act_block, every(2, scale=depth**-0.5)
        net = Chain(*[layer for _ in range(depth) for layer in block()], wiring=wiring)
        found[depth] = statistics.mean(ends(he(net, "fan_in", dense=True), 16)[1] for _ in range(4))
    assert found[80] / found[5] == pytest.approx(1.0, abs=0.15)


# -- what a block is before it learns ----------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [Learned(0.0), Learned(0.0, per="channel")], ids=str)
def test_a_branch_that_begins_at_zero_makes_the_identity(scale: Learned) -> None:
    """ReZero (2003.04887), SkipInit (2002.10444): exactly, in values and in gradients."""
    net = Chain(*[layer for _ in range(50) for layer in (relu, Dense(8, 8))], wiring=every(2, scale=scale))
    x, above = torch.randn(4, 8, requires_grad=True), torch.randn(4, 8)
    y = net(x)
    (below,) = torch.autograd.grad(y, x, above, retain_graph=True)
    assert torch.equal(y, x)
    assert torch.equal(below, above)
    # and yet it learns at once: the gains have a gradient, the layers have none before the gains have moved
    gains = [net.shortcuts[name].scale for name in net.shortcuts]
    assert all(g.abs().sum() > 0 for g in torch.autograd.grad(y, gains, above, retain_graph=True))
    weights = [layer.weight for layer in net if isinstance(layer, Dense)]
    assert all(bool((g == 0).all()) for g in torch.autograd.grad(y, weights, above))


def test_layer_scale_begins_as_far_from_the_identity_as_it_says() -> None:
    """LayerScale (2103.17239): a block moves its input by exactly the small factor times the branch."""
    net = Skip(Conv(6, 6, 3, padding=1), relu, Conv(6, 6, 1), scale=Learned(1e-6, per="channel")).double()
    x = torch.randn(2, 6, 5, 5, dtype=torch.float64)
    torch.testing.assert_close(net(x) - x, 1e-6 * net.plain()(x), rtol=1e-6, atol=1e-14)


def test_a_rezero_net_begins_as_its_ends() -> None:
    net = zoo.rezero_mlp(12, 16, 40, 3)
    x = torch.randn(5, 12)
    assert torch.equal(net(x), net["head"](net["stem"](x)))


@pytest.mark.parametrize("training", [True, False])
def test_blocks_of_a_zero_init_resnet_begin_as_their_shortcuts(training: bool) -> None:
    """The last gamma of a branch is 0 (1706.02677): a block is the relu of what its shortcut brings."""
    net = zoo.resnet18(num_classes=4, zero_init=True).train(training)
    ordinary = zoo.resnet18(num_classes=4).train(training)
    x = torch.randn(2, 3, 32, 32)
    for chain, zero in ((net, True), (ordinary, False)):
        stage = chain["stage2"]
        below = torch.randn(2, 64, 8, 8)
        for block in stage:
            connection = block.shortcuts["input->output"]
            brought = relu(connection.bring(below))
            assert torch.equal(block(below), brought) == zero
            below = brought
    assert torch.isfinite(net(x)).all()


def test_a_gate_with_a_low_bias_begins_near_the_identity() -> None:
    """Highway (1505.00387): g is sigmoid(bias) where the gate's weights are 0."""
    net = zoo.highway(6, 6, 1, 6, gate_bias=-40.0)["body"]
    x = torch.randn(9, 6)
    torch.testing.assert_close(net(x), x, rtol=1e-6, atol=1e-7)


def test_halving_kills_what_adding_over_the_root_of_two_keeps() -> None:
    """Why constant scaling fails (table 1 of 1603.05027): 20 blocks leave a thousandth of the gradient."""
    kept = {}
    for factor in (0.5, 0.5**0.5):
        layers = [layer for _ in range(20) for layer in act_block()]
        net = he(Chain(*layers, wiring=every(2, scale=factor, path_scale=factor)), "fan_in", dense=True)
        kept[factor] = ends(net, 16)[1]
    assert kept[0.5] < 0.01 < 0.1 < kept[0.5**0.5]


# -- table 1 of 1603.05027: what stands on all 54 shortcuts of 110 layers ----------------------------------------------


def residual(blocks: int, **shortcut: object) -> Chain:
    """A residual net with so many blocks in each of three stages of 16, 32 and 64 channels."""
    layers: list = [Conv(3, 16, 3, padding=1, bias=False), BatchNorm(), relu]
    start = 16
    for stage, end in enumerate((16, 32, 64)):
        for i in range(blocks):
            layers.append(
                Skip(
                    Conv(start, end, 3, stride=2 if stage and not i else 1, padding=1, bias=False), BatchNorm(), relu,
                    Conv(end, end, 3, padding=1, bias=False), BatchNorm(),
                    act=relu, **{"path": "pad", **shortcut},
                )
            )  # fmt: skip
            start = end
    return Chain(*layers, GlobalAvgPool(), Dense(64, 10), input=(3, 32, 32))


def parameters(blocks: int, **shortcut: object) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in residual(blocks, **shortcut).parameters())


EVERYWHERE = {
    # a 1x1 convolution with bias for the c channels of each block
    "exclusive gating": ({"merge": Gate(bias=-6)}, lambda n: n * sum(c * c + c for c in (16, 32, 64))),
    "shortcut-only gating": (
        {"merge": Gate(bias=-6, on="shortcut")},
        lambda n: n * sum(c * c + c for c in (16, 32, 64)),
    ),
    # one without, of the shortcut that is padded where the width changes; or straight from the narrower value
    "1x1 after padding": ({"path": ["pad", Project(always=True)]}, lambda n: n * sum(c * c for c in (16, 32, 64))),
    "1x1": (
        {"path": Project(always=True)},
        lambda n: n * sum(c * c for c in (16, 32, 64)) - (32 * 32 - 16 * 32) - (64 * 64 - 32 * 64),
    ),
    "dropout": ({"path": ["pad", Dropout(0.5)]}, lambda n: 0),
    "constant scaling": ({"scale": 0.5, "path_scale": 0.5}, lambda n: 0),
}


@pytest.mark.parametrize("name", EVERYWHERE)
def test_what_every_shortcut_costs(name: str) -> None:
    shortcut, more = EVERYWHERE[name]
    assert parameters(2, **shortcut) - parameters(2) == more(2)


@pytest.mark.parametrize(
    ("name", "more"), [("shortcut-only gating", 98_784), ("1x1 after padding", 96_768)], ids=["gates", "1x1"]
)
def test_what_the_54_shortcuts_of_110_layers_cost(name: str, more: int) -> None:
    shortcut, law = EVERYWHERE[name]
    assert parameters(18, **shortcut) - 1_727_962 == more == law(18)
