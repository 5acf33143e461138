"""Every merge against its formula, and at its corners."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from skipway import (
    Cat,
    Chain,
    ChainError,
    Conv,
    Dense,
    DualPath,
    Gate,
    Learned,
    Lerp,
    Orthogonal,
    Parallel,
    Shortcut,
    Skip,
    cross,
    every,
    tanh,
)

X = torch.randn(5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
KEY = "input->output"


def around(**options) -> tuple[Skip, torch.Tensor]:
    torch.manual_seed(1)
    net = Skip(Dense(4, 4, tanh), **options).double()
    return net, net[0](X)


def test_subtraction_takes_away_what_the_branch_says():
    net, branch = around(merge="sub")
    assert torch.equal(net(X), X - branch)
    assert "x = x0 - x" in net.code or "return x0 - x" in net.code


def test_backcasts_add_up():
    # N-BEATS, 1905.10437: what is left, and all that was taken away, make the input
    net = Chain(*[Dense(4, 4, tanh) for _ in range(3)], wiring=every(1, merge="sub")).double()
    left = [X, *net.features(X, at=[1, 2, 3]).values()]
    taken = sum(layer(value) for layer, value in zip(net, left[:3], strict=True))
    assert torch.allclose(left[3] + taken, X)


def gate(net: Skip, which: str = "transform") -> torch.Tensor:
    layer = getattr(net.shortcuts[KEY].merge, which)
    return torch.sigmoid(X @ layer.weight.T + layer.bias)


def test_gates():
    net, f = around(merge=Gate(-1.0))
    g = gate(net)
    assert torch.allclose(net(X), g * f + (1 - g) * X)
    net, f = around(merge=Gate(-1.0, free=True))
    assert torch.allclose(net(X), gate(net) * f + gate(net, "carry") * X)
    assert net.shortcuts[KEY].merge.carry.bias.tolist() == [1.0] * 4
    net, f = around(merge=Gate(-1.0, on="shortcut"))
    assert torch.allclose(net(X), f + (1 - gate(net)) * X)
    net, f = around(merge=Gate(-1.0, on="branch"))
    assert torch.allclose(net(X), gate(net) * f + X)


@pytest.mark.parametrize(("on", "rest"), [("both", "identity"), ("branch", "identity"), ("shortcut", "residual")])
def test_a_gate_that_is_closed(on, rest):
    net, f = around(merge=Gate(-1000.0, on=on))
    nn.init.zeros_(net.shortcuts[KEY].merge.transform.weight)
    assert torch.equal(net(X), X if rest == "identity" else f + X)


def test_a_gate_that_is_open():
    net, f = around(merge=Gate(1000.0))
    nn.init.zeros_(net.shortcuts[KEY].merge.transform.weight)
    assert torch.allclose(net(X), f), "the plain layer"


def test_interpolation():
    net, f = around(merge=Lerp(0.25))
    assert torch.allclose(net(X), 0.75 * X + 0.25 * f)
    assert torch.equal(around(merge=Lerp(0.0))[0](X), X)
    assert torch.allclose(around(merge=Lerp(1))[0](X), f)
    net, f = around(merge=Lerp(Learned(0.5)))
    assert torch.allclose(net(X), (X + f) / 2)
    assert [n for n, _ in net.shortcuts.named_parameters()] == [f"{KEY}.merge.weight"]


def test_on_the_sphere():
    # nGPT, 2410.01131: norm(x + a * (norm(F) - x))
    net, f = around(merge=Lerp(Learned(0.05, per="channel"), norm=True))
    x = X / X.norm(dim=1, keepdim=True)
    f = net[0](x)
    moved = x + 0.05 * (f / f.norm(dim=1, keepdim=True) - x)
    assert torch.allclose(net(x), moved / moved.norm(dim=1, keepdim=True))
    assert torch.allclose(net(X).norm(dim=1), torch.ones(5, dtype=torch.float64))
    images = Skip(Conv(3, 3, 1), merge=Lerp(Learned(0.05, per="channel"), norm=True))
    assert torch.allclose(images(torch.randn(2, 3, 4, 4)).norm(dim=1), torch.ones(2, 4, 4))


def test_orthogonal_updates():
    net, f = around(merge=Orthogonal(eps=0.0))
    update = net(X) - X
    assert torch.allclose((update * X).sum(1), torch.zeros(5, dtype=torch.float64), atol=1e-12)
    # and what is missing is along x
    missing = f - update
    assert torch.allclose(missing * (X * X).sum(1, keepdim=True), X * (X * missing).sum(1, keepdim=True))
    still = Skip(lambda x: 3 * x, merge=Orthogonal(eps=0.0), input=4)
    assert torch.allclose(still(X), X), "a branch along x says nothing new"


def test_dual_path():
    torch.manual_seed(0)
    net = Skip(Dense(7, 5), merge=DualPath(add=3)).double()
    x = torch.randn(2, 7, dtype=torch.float64)
    f = net[0](x)
    assert torch.equal(net(x), torch.cat([x[:, :3] + f[:, :3], x[:, 3:], f[:, 3:]], 1))
    images = Skip(Conv(5, 4, 1), merge=DualPath(add=2))
    assert images(torch.randn(1, 5, 3, 3)).shape == (1, 7, 3, 3)


def test_corners_of_mixed_links():
    # 1802.01808: all of it added is a ResNet, none of it a DenseNet
    body = Dense(4, 4)
    x = torch.randn(2, 4)
    assert torch.equal(Skip(body, merge=DualPath(add=4))(x), Skip(body)(x))
    none = torch.cat([x[:, :1] + body(x)[:, :1], x[:, 1:], body(x)[:, 1:]], 1)
    assert torch.equal(Skip(body, merge=DualPath(add=1))(x), none)
    assert torch.equal(none[:, 1:4], Skip(body, merge=Cat(first="shortcut"))(x)[:, 1:4])


def test_cross():
    # Deep & Cross, 2008.13535: x0 * (W x + b) + x
    torch.manual_seed(0)
    net = Chain(*[Dense(4, 4) for _ in range(3)], wiring=cross()).double()
    value = X
    for layer in net:
        value = X * layer(value) + value
    assert torch.allclose(net(X), value)
    for p in net.parameters():
        nn.init.zeros_(p)
    assert torch.equal(net(X), X)


def test_concatenation_and_a_layer_are_a_sum_of_projections():
    torch.manual_seed(0)
    net = Chain(a=Dense(4, 3), b=Dense(3, 5), head=Dense(8, 2), wiring=[Shortcut("a", "b", merge="cat")]).double()
    a = net["a"](X)
    branch, brought = net["head"].weight.split([5, 3], 1)
    assert torch.allclose(net(X), net["b"](a) @ branch.T + a @ brought.T + net["head"].bias)


def test_groups_are_branches_side_by_side():
    # 1611.05431, figure 3
    grouped = Conv(6, 6, 3, padding=1, groups=3, bias=False).double()
    rows = grouped.weight.split(2)
    branches = [
        Chain(lambda x, i=i: x[:, 2 * i : 2 * i + 2], Conv(2, 2, 3, padding=1, bias=False)).double() for i in range(3)
    ]
    for branch, row in zip(branches, rows, strict=True):
        branch[1].weight.data.copy_(row)
    x = torch.randn(2, 6, 5, 5, dtype=torch.float64)
    assert torch.allclose(Parallel(*branches, merge="cat")(x), grouped(x))


@pytest.mark.parametrize("merge", ["gate", "sub", Lerp(), Orthogonal(), DualPath(1)])
def test_two_sides_are_no_equal_branches(merge):
    with pytest.raises(ChainError, match="weighs a branch against a shortcut; use Skip"):
        Parallel(Dense(2, 2), Dense(2, 2), merge=merge)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Gate(on="path"), 'on is "both", "shortcut" or "branch", not \'path\''),
        (lambda: Gate(on="shortcut", free=True), "contradicts: leave one out"),
        (lambda: Lerp("0.5"), "not '0.5'"),
        (lambda: DualPath(0), "positive whole number, not 0"),
        (lambda: Skip(Dense(4, 3), merge=DualPath(4)), "adds the first 4 features, and the branch has 3"),
        (lambda: Skip(Dense(3, 6), merge=DualPath(4)), "adds the first 4 features, and the shortcut has 3"),
        (lambda: Skip(Dense(3, 6), merge=Orthogonal()), "orthogonal needs equal shapes"),
        (lambda: Skip(Dense(3, 6), merge="subtract"), "there is no merge 'subtract'"),
    ],
)
def test_bad_input_says_what_is_right(make, said):
    with pytest.raises(ChainError, match=said):
        make()


def test_replace_goes_back_to_an_earlier_value():
    net = Chain(
        a=Dense(4, 3), b=Dense(3, 7), back=Dense(7, 2), c=Dense(3, 5),
        wiring=[Shortcut("a", "back", merge="replace"), Shortcut("b", "c", merge="cat")],
    ).double()  # fmt: skip
    a = net["a"](X)
    assert torch.equal(net(X), torch.cat([net["c"](a), net["b"](a)], 1))
