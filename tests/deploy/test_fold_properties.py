"""Any chain of linear layers, norms, activations and shortcuts computes the same after folding."""

from __future__ import annotations

import contextlib
import copy
import os

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import nn

import skipway
from skipway import (
    AvgPool,
    BatchNorm,
    Chain,
    ChainError,
    Conv,
    Dense,
    Drop,
    Dropout,
    Learned,
    Parallel,
    ShapeError,
    Shortcut,
    Skip,
    relu,
    tanh,
)
from skipway.deploy import fold
from skipway.deploy.onednn import program
from skipway.edit import nested

WIDTH, SIDE = 4, 6
#: enough to find what is wrong within seconds; take thousands after a change
EXAMPLES = int(os.environ.get("FOLD_EXAMPLES", 15))
slow = settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))


@st.composite
def scales(draw):
    return draw(st.sampled_from([None, None, 0.5, -1.5, Learned(0.7), Learned(-0.3), Learned(1.2, per="channel")]))


@st.composite
def options(draw):
    """What a shortcut says."""
    paths = st.sampled_from(["identity", "identity", nn.Identity, BatchNorm, "linear", "two", tanh])
    drops = st.sampled_from([0.0, 0.0, 0.3, Drop(0.25, law="test-scale")])
    return {
        "merge": draw(st.sampled_from(["add", "add", "add", "mean", "sub", "max", "mul"])),
        "path": draw(paths),
        "act": draw(st.sampled_from([None, None, relu, tanh])),
        "scale": draw(scales()),
        "path_scale": draw(scales()),
    } | draw(drops.map(lambda drop: {"drop": drop}))


class Maker:
    """Layers that keep width and size: dense ones, or convolutions."""

    def __init__(self, draw, images: bool) -> None:
        self.draw, self.images = draw, images

    def pick(self, *values):
        return self.draw(st.sampled_from(values))

    def linear(self):
        act, bias = self.pick(None, None, relu), self.draw(st.booleans())
        if not self.images:
            return Dense(WIDTH, WIDTH, act, bias)
        kernel, groups, mode = self.pick(1, 1, 3), self.pick(1, 1, 2, WIDTH), self.pick("zeros", "zeros", "reflect")
        return Conv(WIDTH, WIDTH, kernel, act, padding=kernel // 2, groups=groups, bias=bias, padding_mode=mode)

    def layer(self, depth: int):
        kinds = ["linear", "linear", "norm", "norm", "act", "away"]
        kinds += ["skip", "chain", "parallel", "row"] if depth else []
        kind = self.pick(*kinds)
        if kind == "linear":
            return self.linear()
        if kind == "norm":
            return BatchNorm(WIDTH)
        if kind == "act":
            return self.pick(relu, tanh)
        if kind == "away":
            return self.pick(nn.Identity, lambda: Dropout(0.5))()
        if kind == "parallel":
            branches = [Chain(*self.layers(depth - 1)) for _ in range(self.pick(1, 2, 3))]
            return Parallel(*branches, merge=self.pick("add", "add", "mean", "max"))
        if kind == "row":
            return nn.Sequential(*[self.linear(), BatchNorm(WIDTH)])
        if kind == "skip":
            return Skip(*self.layers(depth - 1), **self.said())
        inner = self.layers(depth - 1)
        return Chain(*inner, wiring=self.wiring(len(inner)))

    def layers(self, depth: int):
        return [self.layer(depth) for _ in range(self.pick(1, 2, 2, 3))]

    def said(self):
        said = self.draw(options())
        if said["path"] == "linear":
            said["path"] = self.linear()
        elif said["path"] == "two":
            said["path"] = nn.Sequential(self.linear(), BatchNorm(WIDTH))
        elif isinstance(said["path"], type):
            said["path"] = BatchNorm(WIDTH) if said["path"] is BatchNorm else nn.Identity()
        if said["merge"] == "mul":
            said["drop"] = 0.0  # it would drop the only path
        return said

    def wiring(self, length: int):
        found = []
        for _ in range(self.pick(0, 0, 1, 2, 3)):
            start = self.draw(st.integers(0, length - 1))
            end = self.draw(st.integers(start + 1, length))
            found.append(Shortcut(start, end, tap=self.pick("state", "branch"), name=f"s{len(found)}", **self.said()))
        return found


@st.composite
def chains(draw, images: bool):
    make = Maker(draw, images)
    layers = [make.layer(2) for _ in range(draw(st.integers(1, 5)))]
    try:
        net = Chain(*layers, wiring=make.wiring(len(layers)), input=(WIDTH, SIDE, SIDE) if images else WIDTH)
    except ShapeError as error:
        assume("feature axis" not in str(error))  # where nothing tells it, there can be no scale for each
        raise
    inside = nested(net)
    if inside and draw(st.booleans()):  # a shortcut into, or out of, a nested chain
        values = [v for v in net.values if v != "input"]
        start, end = draw(st.sampled_from(values)), draw(st.sampled_from(values))
        far = Shortcut(start, end, name="far", tap=make.pick("state", "branch"))
        with contextlib.suppress(ChainError):  # backwards, or to itself
            net = net.rewire([*net.wiring, far])
    assume(not net.is_open)
    return disturbed(net)


def disturbed(net: Chain) -> Chain:
    """The net in float64 and eval mode, as training would leave it: no norm is the identity, no gain equal."""
    net = net.double().eval()
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
            with torch.no_grad():
                module.weight.uniform_(-1.0, 1.5)
                module.bias.normal_()
    return net


def check(net: Chain, x: torch.Tensor) -> None:
    before = copy.deepcopy(net.state_dict())
    folded = fold(net, check=False)
    with torch.no_grad():
        expected, found = net(x), folded(x)
    scale = max(1.0, float(expected.abs().max()))
    assert float((expected - found).abs().max()) <= 1e-11 * scale, folded.report
    report = folded.report
    assert report.after.layers <= report.before.layers
    assert report.after.shortcuts <= report.before.shortcuts
    # the net is as it was, shares nothing, and the result is a chain like any other
    assert all(torch.equal(a, b) for a, b in zip(before.values(), net.state_dict().values(), strict=True))
    held = {t.data_ptr() for t in net.state_dict().values() if t.numel()}
    assert not any(t.data_ptr() in held for t in folded.state_dict().values() if t.numel())
    assert not any(module.training for module in folded.modules())
    again = eval(repr(folded), {**vars(skipway), "nn": nn, **vars(skipway.deploy.layers)})
    shapes = [{key: value.shape for key, value in one.state_dict().items()} for one in (again, folded)]
    assert shapes[0] == shapes[1]
    twin = copy.deepcopy(folded)
    with torch.no_grad():
        assert torch.equal(twin(x), found)


@slow
@given(chains(images=False))
def test_dense(net):
    check(net, torch.randn(3, WIDTH, dtype=torch.float64))


@slow
@given(chains(images=True))
def test_convolutions(net):
    check(net, torch.randn(2, WIDTH, SIDE, SIDE, dtype=torch.float64))


def check_straight(net: Chain, x: torch.Tensor) -> None:
    """In float64 no fused operator takes part: what is checked is the program."""
    given = x.clone()
    for chain in (net, fold(net, check=False)):
        with torch.inference_mode():
            expected = net(x)
            run = program(chain, x).function()
            for n in (2, 1, 2):
                assert torch.allclose(run(x[:n]), expected[:n], rtol=1e-9, atol=1e-9)
    assert torch.equal(x, given)


@slow
@given(chains(images=False))
def test_straight_lines_of_dense_layers(net):
    check_straight(net, torch.randn(2, WIDTH, dtype=torch.float64))


@slow
@given(chains(images=True))
def test_straight_lines_of_convolutions(net):
    check_straight(net, torch.randn(2, WIDTH, SIDE, SIDE, dtype=torch.float64))


@slow
@given(chains(images=True), st.integers(SIDE, 9))
def test_twice_and_at_another_size(net, side):
    folded = fold(fold(net, check=False), check=False)
    x = torch.randn(2, WIDTH, side, side + 1, dtype=torch.float64)
    with torch.no_grad():
        assert torch.allclose(folded(x), net(x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("pool", [AvgPool(2), nn.AvgPool2d(3, padding=1, count_include_pad=False)])
@slow
@given(images=st.just(True), data=st.data())
def test_pools(pool, images, data):
    make = Maker(data.draw, images)
    net = disturbed(Chain(*make.layers(1), Conv(WIDTH, WIDTH, 1), pool, *make.layers(1), input=(WIDTH, SIDE, SIDE)))
    check(net, torch.randn(2, WIDTH, SIDE, SIDE, dtype=torch.float64))
