"""State dicts of other structures than those of the zoo: what nests elsewhere, lies in a row, or has other shapes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from skipway import (
    BatchNorm,
    Chain,
    ChainError,
    Conv,
    Dense,
    Learned,
    Project,
    Shortcut,
    Skip,
    SqueezeExcite,
    every,
    relu,
    zoo,
)


def norm(name, width):
    """What a batch norm has in a state dict."""
    held = {f"{name}.{role}": (width,) for role in ("weight", "bias", "running_mean", "running_var")}
    return {**held, f"{name}.num_batches_tracked": ()}


def test_shortcuts_of_a_flat_chain_meet_blocks_that_nest():
    """Projections of a wiring lie together in the net, and with their blocks in the state dict."""

    def block(start, end):
        own = nn.Sequential(nn.Linear(start, end), nn.Linear(end, end))
        return nn.ModuleDict({"body": own, "downsample": nn.Sequential(nn.Linear(start, end, bias=False))})

    theirs = nn.ModuleList([block(3, 5), block(5, 5), block(5, 5)])
    net = Chain(
        Dense(3, 5), Dense(5, 5), Dense(5, 5), Dense(5, 5), Dense(5, 5), Dense(5, 5),
        wiring=[Shortcut(i, i + 2, path=nn.Linear(3 if i == 0 else 5, 5, bias=False)) for i in (0, 2, 4)],
    )  # fmt: skip
    zoo.load(net, theirs.state_dict())
    x = torch.rand(2, 3)
    expected = x
    for part in theirs:
        expected = part["body"](expected) + part["downsample"](expected)
    torch.testing.assert_close(net(x), expected)


def test_a_norm_by_itself_is_not_taken_for_the_one_behind_a_convolution():
    """RepVGG's branches as shortcuts: three norms of one width, and in the state dict that of the identity first."""

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.identity = nn.BatchNorm2d(4)
            self.dense = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4))
            self.point = nn.Sequential(nn.Conv2d(4, 4, 1, bias=False), nn.BatchNorm2d(4))

        def forward(self, x):
            return relu(self.identity(x) + self.dense(x) + self.point(x))

    def block():
        point = nn.Sequential(nn.Conv2d(4, 4, 1, bias=False), nn.BatchNorm2d(4))
        return Chain(
            Conv(4, 4, 3, padding=1, bias=False), BatchNorm(4),
            wiring=[Shortcut("input", "output", path=point, name="point"),
                    Shortcut("input", "output", path=nn.BatchNorm2d(4), act=relu, name="identity")],
        )  # fmt: skip

    theirs = nn.Sequential(Block(), Block()).eval()
    for tensor in theirs.state_dict().values():
        tensor.copy_(torch.rand(tensor.shape) + 0.5)
    net = Chain(block(), block()).eval()
    report = zoo.load(net, theirs.state_dict())
    assert "order" not in {entry.by for entry in report.entries}
    x = torch.rand(2, 4, 5, 5)
    torch.testing.assert_close(net(x), theirs(x))


def test_a_row_that_happens_to_hold_what_a_shortcut_owns_is_not_taken_for_it():
    """Squeeze-and-excitation: the last convolution and the gate lie beside each other, and hold as much as the shortcut
    with its projection and its gate."""
    net = Chain(Skip(Conv(4, 8, 1, bias=False), BatchNorm(8), scale=SqueezeExcite(2), path=Project(norm=BatchNorm)))
    shapes = {
        "conv3.weight": (8, 4, 1, 1), **norm("bn3", 8),
        "se.fc1.weight": (4, 8, 1, 1), "se.fc1.bias": (4,), "se.fc2.weight": (8, 4, 1, 1), "se.fc2.bias": (8,),
        "downsample.0.weight": (8, 4, 1, 1), **norm("downsample.1", 8),
    }  # fmt: skip
    found = {
        entry.foreign: entry.own
        for entry in zoo.load(net, {key: torch.rand(shape) for key, shape in shapes.items()}).entries
    }
    assert found["conv3.weight"] == "0.0.weight"
    assert found["bn3.running_var"] == "0.1.running_var"
    assert found["downsample.1.bias"] == "0.shortcuts.input->output.path.1.bias"


def test_a_row_of_layers_that_is_a_module_elsewhere():
    theirs = nn.ModuleDict({"stem": nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), "end": nn.Linear(2, 2)})
    net = Chain(Dense(2, 2), Dense(2, 2), Dense(2, 2))
    state = theirs.state_dict()
    found = {entry.own: entry.foreign for entry in zoo.load(net, state).entries}
    assert [found[f"{i}.weight"] for i in range(3)] == ["stem.0.weight", "stem.1.weight", "end.weight"]


def test_dense_layers_and_scales_under_other_shapes():
    net = Chain(Skip(Conv(3, 4, 1), relu, Conv(4, 3, 1), scale=Learned(1e-6, per="channel")))
    theirs = {"gamma": torch.rand(3), "fc1.weight": torch.rand(4, 3), "fc1.bias": torch.rand(4),
              "fc2.weight": torch.rand(3, 4), "fc2.bias": torch.rand(3)}  # fmt: skip
    zoo.load(net, theirs)
    assert torch.equal(net[0].shortcuts["input->output"].scale.flatten(), theirs["gamma"])
    assert torch.equal(net[0][0].weight[:, :, 0, 0], theirs["fc1.weight"])


def test_numbers_are_counted_not_spelt():
    net = Chain(*[Dense(2, 2) for _ in range(12)], wiring=every(1))
    state = Chain(*[Dense(2, 2) for _ in range(12)]).state_dict()
    found = zoo.load(net, {key: state[key] for key in sorted(state)}).entries
    assert all(entry.own == entry.foreign and entry.by == "number" for entry in found)


def test_equals_without_a_number_go_by_the_order_unless_that_is_the_alphabet():
    theirs = {f"{name}.weight": torch.rand(2, 2) for name in ("right", "left")}
    net = Chain(Dense(2, 2, bias=False), Dense(2, 2, bias=False))
    assert [entry.foreign for entry in zoo.load(net, theirs).entries] == ["right.weight", "left.weight"]
    before = net[0].weight.clone()
    with pytest.raises(ChainError, match=r"'left' and 'right' hold tensors of equal shapes, .* alphabetical order"):
        zoo.load(net, {key: theirs[key] for key in sorted(theirs)})
    assert torch.equal(net[0].weight, before)
