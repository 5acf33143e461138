"""The nets that a net with shortcuts is compared with."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from skipway import BatchNorm, Chain, Conv, Dense, Flatten, LayerNorm, Parallel, Skip, SkipwayError, dense, relu, study
from skipway.study.controls import CLOSE, controls, widened
from skipway.zoo import count


def gated() -> Chain:
    return Chain(Dense(6, 8, relu), *[Skip(Dense(8, 8, relu), merge="gate") for _ in range(3)], Dense(8, 2))


def image() -> Chain:
    block = Chain(*[Chain(BatchNorm(), relu, Conv(..., 4, 3, padding=1)) for _ in range(4)], wiring=dense(merge="cat"))
    return Chain(stem=Conv(1, 8, 3, padding=1), block=block, flat=Flatten(), head=Dense(..., 3), input=(1, 8, 8))


@pytest.mark.parametrize("make", [gated, image])
def test_controls_are_plain_and_as_large(make):
    found = controls(make)
    assert list(found.nets)[:2] == ["net", "plain"]
    assert len(found.nets) == 4, str(found)
    net = found.nets["net"]()
    for name, build in found.nets.items():
        made = build()
        shape = list(net.plan.input.shape)
        assert made(torch.randn(2, *shape)).shape == net(torch.randn(2, *shape)).shape
        if name != "net":
            assert not any(m.wiring for m in made.modules() if isinstance(m, Chain))
    for name, of in (("parameters", "parameters"), ("MACs", "macs")):
        goal, reached = getattr(count(net), of), getattr(count(found.nets[f"plain, as many {name}"]()), of)
        have = getattr(count(net.plain()), of)
        assert abs(reached - goal) < abs(have - goal)
        # widths are whole numbers: one more or less in every layer is as close as it gets
        assert abs(reached - goal) < 0.15 * goal


def test_a_twin_as_large_already_needs_no_control():
    found = controls(lambda: Chain(Dense(6, 8), Skip(Dense(8, 8, relu)), Dense(8, 2)))
    assert list(found.nets) == ["net", "plain"]
    assert "left out: the plain twin has 146 parameters, the net 146" in str(found)
    assert CLOSE < 0.05


def test_a_function_is_called_anew_and_a_chain_keeps_its_weights():
    torch.manual_seed(0)
    fresh = controls(gated).nets
    assert not torch.equal(fresh["net"]()[0].weight, fresh["net"]()[0].weight)
    net = gated()
    held = controls(net).nets
    assert torch.equal(held["net"]()[0].weight, net[0].weight)
    assert torch.equal(held["plain"]()[0].weight, net[0].weight)
    assert held["net"]()[0].weight is not net[0].weight, "nothing you hold is trained"


def test_making_controls_leaves_the_random_state():
    torch.manual_seed(0)
    expected = torch.rand(2)
    torch.manual_seed(0)
    controls(gated)
    assert torch.equal(torch.rand(2), expected)


def test_wider_nets():
    net = Chain(
        a=Dense(4, 8, torch.tanh, bias=False),
        n=LayerNorm(8),
        b=Parallel(Dense(8, 6), Dense(8, 6)),
        c=Chain(nn.Tanh(), Dense(6, 2)),
    )
    wide = widened(net, 1.5)
    assert [tuple(p.shape) for p in wide.parameters()] == [
        (12, 4), (12,), (12,), (9, 12), (9,), (9, 12), (9,), (2, 9), (2,),
    ]  # fmt: skip
    assert wide["a"].act is torch.tanh
    assert list(wide.state_dict()) == list(net.state_dict())
    same = widened(net, 1.0)
    same.load_state_dict(net.state_dict())
    x = torch.randn(3, 4)
    assert torch.equal(same(x), net(x))


def test_wider_convolutions_keep_what_they_are():
    net = Chain(
        Conv(4, 8, 3, relu, stride=2, padding=1, padding_mode="circular"), BatchNorm(8, eps=1e-3),
        Conv(8, 8, (3, 1), padding=(1, 0), groups=4, bias=False), Conv(8, 2, 1), input=(4, 8, 8),
    )  # fmt: skip
    same = widened(net, 1.0)
    same.load_state_dict(net.state_dict())
    x = torch.randn(2, 4, 8, 8)
    assert torch.equal(same.eval()(x), net.eval()(x))
    assert [m.out_channels for m in widened(net, 1.4) if isinstance(m, nn.Conv2d)] == [12, 12, 2], "groups divide"


def test_a_control_that_cannot_be_made_says_why():
    found = controls(lambda: Chain(Dense(8, 8), nn.GroupNorm(2, 8), Skip(Dense(8, 8), merge="gate"), Dense(8, 2)))
    assert list(found.nets) == ["net", "plain"]
    assert "GroupNorm" in found.notes["plain, as many parameters"]
    assert "cannot be made wider from outside" in str(found)


@pytest.mark.parametrize(
    ("net", "said"),
    [
        (Chain(Dense(2, 2)), "has no shortcuts, so it is its own plain twin"),
        (lambda: nn.Linear(2, 2), "made a Linear"),
        (lambda: Chain(Skip(Dense(..., 2))), "is open"),
    ],
)
def test_bad_input(net, said):
    with pytest.raises(SkipwayError, match=said):
        controls(net)


def test_compare_takes_a_net_and_makes_the_controls():
    x = torch.randn(60, 6, generator=torch.Generator().manual_seed(0))
    y = (x[:, 0] > 0).long()
    result = study.compare(gated, (x, y), (x, y), epochs=1, batch=20, seeds=2, progress=False)
    assert result.names == ("net", "plain", "plain, as many parameters", "plain, as many MACs")
    assert {run.seed for run in result.runs} == {0, 1}
    assert [result.of(name)[0].shortcuts for name in result.names] == [3, 0, 0, 0]
    assert "as wide" in result.options["controls"]["plain, as many MACs"]
