"""Chains of the layers of an nn.Sequential: the same objects, names, keys and outputs."""

from __future__ import annotations

import copy
import pickle
from collections import OrderedDict

import pytest
import torch
from torch import nn

import skipway
from skipway import Chain, ChainError, Dense, ShapeError, Shortcut, Skip, every


def mlp(**more):
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 4))


def named():
    row = nn.Sequential(OrderedDict([("stem", nn.Linear(4, 8)), ("act", nn.ReLU()), ("head", nn.Linear(8, 4))]))
    row.add_module("last", nn.BatchNorm1d(4))
    return row


def features():
    """VGG's, with batch norm, as torchvision builds them."""
    layers, width = [], 3
    for step in (8, "M", 16, 16, "M"):
        if step == "M":
            layers.append(nn.MaxPool2d(2, 2))
        else:
            layers += [nn.Conv2d(width, step, 3, padding=1), nn.BatchNorm2d(step), nn.ReLU(inplace=True)]
            width = step
    return nn.Sequential(*layers)


def within():
    """Rows in rows, as most hand-written nets have them."""
    inner = nn.Sequential(OrderedDict([("up", nn.Linear(8, 8)), ("act", nn.ReLU()), ("down", nn.Linear(8, 8))]))
    return nn.Sequential(nn.Linear(4, 8), nn.Sequential(inner, nn.ReLU()), nn.Linear(8, 4))


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize(
    ("make", "shape"),
    [(mlp, (5, 4)), (named, (5, 4)), (within, (5, 4)), (features, (2, 3, 8, 8)), (nn.Sequential, (2, 3))],
)
def test_the_same_layers_keys_and_outputs(make, shape, nested):
    row, x = make(), torch.randn(shape)
    net = Chain.from_sequential(row, nested=nested)
    assert list(net.state_dict()) == list(row.state_dict())
    assert [id(p) for p in net.parameters()] == [id(p) for p in row.parameters()]
    leaves = [[m for m in module.modules() if not list(m.children())] for module in (net, row)]
    assert make is nn.Sequential or [id(m) for m in leaves[0]] == [id(m) for m in leaves[1]]
    twin = copy.deepcopy(row)  # batch norm moves its statistics in each forward
    assert torch.equal(net(x), twin(x))
    assert torch.equal(net.eval()(x), twin.eval()(x))
    net.load_state_dict(twin.state_dict())


def test_names_and_positions():
    net = Chain.from_sequential(named(), wiring=[Shortcut("input", "head"), Shortcut(1, 2)])
    assert net["stem"] is net[0]
    assert net.values == ("input", "stem", "act", "head", "last")
    assert Chain.from_sequential(mlp())["3"].__class__ is nn.Tanh


def test_a_slice_keeps_the_numbers_it_had():
    row = mlp()[2:]
    net = Chain.from_sequential(row)
    assert list(net.state_dict()) == list(row.state_dict()) == ["2.weight", "2.bias", "4.weight", "4.bias"]
    assert net["2"] is net[0] is row[0]


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_stays(training):
    row = features().train(training)
    row[1].eval()  # a frozen norm
    net = Chain.from_sequential(row, wiring=[Shortcut("input", 1, path="project")], nested=True)
    assert net.training is training
    assert net.shortcuts["input->1"].training is training
    assert [m.training for m in net] == [m.training for m in row]
    assert not net[1].training


def test_shortcuts_join_what_the_layers_make():
    row, x = mlp(), torch.randn(3, 4)
    net = Chain.from_sequential(row, wiring=[Shortcut(2, 4), Shortcut("input", "output")])
    tapped = row[:2](x)
    assert torch.equal(net(x), row[4](row[2:4](tapped) + tapped) + x)
    assert [s.label for s in net.wiring] == ["2->4", "input->output"]
    assert torch.equal(Chain.from_sequential(row, wiring=every(2, path="project")).plain()(x), row(x))


def test_new_projections_go_where_the_layers_are():
    row = mlp().double().requires_grad_(False)
    net = Chain.from_sequential(row, wiring=[Shortcut(0, 1, path="project")])
    assert net.shortcuts["0->1"].path.weight.dtype == torch.float64
    assert net.shortcuts["0->1"].path.weight.requires_grad
    assert [k for k in net.state_dict() if k not in row.state_dict()] == ["shortcuts.0->1.path.weight"]


def test_an_image_net_takes_shortcuts_with_a_stride():
    row, x = features(), torch.randn(2, 3, 8, 8)
    net = Chain.from_sequential(row, wiring=[Shortcut("input", 8, path="project")], input=(3, 8, 8)).eval()
    assert net.plan.output.shape == (16, 2, 2)
    row.eval()
    path = net.shortcuts["input->8"].path
    assert path.stride == (2, 2)
    # the shortcut lands after the second norm, before a relu in place
    before = row[:8](x)
    assert torch.equal(net(x), row[8:](before + path(x)))


def test_rows_inside_stay_layers_unless_they_are_wanted():
    row = within()
    assert Chain.from_sequential(row)[1] is row[1]
    whole = Chain.from_sequential(row, nested=True)
    assert isinstance(whole[1], Chain)
    assert isinstance(whole[1][0], Chain)
    assert whole["1.0.up"] is row[1][0].up


def test_a_dotted_name_opens_the_rows_it_leads_through():
    row, x = within(), torch.randn(3, 4)
    net = Chain.from_sequential(row, wiring=[Shortcut(1, "1.0.down", name="around")])
    assert isinstance(net[1], Chain)
    assert isinstance(net[1][0], Chain)
    stem = row[0](x)
    assert torch.equal(net(x), row[2](row[1][1](row[1][0](stem) + stem)))
    assert list(net.state_dict()) == list(row.state_dict())
    other = nn.Sequential(within(), within())
    net = Chain.from_sequential(other, wiring=[Shortcut(1, "1.2")])
    assert net[0] is other[0]
    assert isinstance(net[1], Chain)


def test_hooks_of_the_layers_stay():
    row, seen = mlp(), []
    row[2].register_forward_hook(lambda module, inputs, output: seen.append(module))
    Chain.from_sequential(row)(torch.zeros(1, 4))
    assert seen == [row[2]]


def test_a_trained_optimizer_goes_on():
    row = mlp()
    optimizer = torch.optim.Adam(row.parameters())
    net = Chain.from_sequential(row, wiring=every(2, path="project"))
    before = row[0].weight.clone()
    net(torch.randn(3, 4)).square().sum().backward()
    optimizer.step()
    assert not torch.equal(net[0].weight, before)


def test_it_is_an_ordinary_chain():
    net = Chain.from_sequential(named(), wiring=[Shortcut("stem", "act", merge="mean")]).eval()
    x = torch.randn(3, 4)
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert torch.equal(twin(x), net(x))
    again = eval(repr(net), {**vars(skipway), "nn": nn, "torch": torch})
    again.load_state_dict(net.state_dict())
    assert torch.equal(again.eval()(x), net(x))
    assert "stem" in str(net)


def test_layers_that_wait_for_their_width_get_it():
    net = Chain.from_sequential(nn.Sequential(nn.Linear(4, 8), Dense(..., 2)), wiring=[Shortcut(0, 1, merge="cat")])
    assert net[1].in_features == 12
    assert Chain.from_sequential(nn.Sequential(Dense(..., 2))).is_open
    assert Chain.from_sequential(nn.Sequential(Dense(..., 2)), input=3)[0].in_features == 3


class Twice(nn.Sequential):
    def forward(self, x):
        return super().forward(super().forward(x))


class Plain(nn.Sequential):
    """A row with a name, as torchvision's Conv2dNormActivation."""


def test_subclasses_are_rows_unless_they_run_otherwise():
    assert len(Chain.from_sequential(Plain(nn.Linear(4, 4)))) == 1
    outer = nn.Sequential(Twice(nn.Linear(4, 4)), Plain(nn.Linear(4, 4)))
    net, x = Chain.from_sequential(outer, nested=True), torch.randn(2, 4)
    assert net[0] is outer[0]
    assert isinstance(net[1], Chain)
    assert torch.equal(net(x), outer(x))


def with_parameter():
    row = mlp()
    row.scale = nn.Parameter(torch.ones(1))
    return row


def with_hook():
    row = mlp()
    row.register_forward_hook(lambda *_: None)
    return row


def with_none():
    row = mlp()
    row[1] = None
    return row


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (lambda: nn.ModuleList([nn.Linear(2, 2)]), r"got a ModuleList, .* order .*: write Chain\(\*modules\)"),
        (lambda: nn.ModuleDict({"a": nn.Linear(2, 2)}), r"got a ModuleDict, .*: write Chain\(dict\(modules\)\)"),
        (lambda: nn.Linear(2, 2), "got a Linear, whose forward may do anything"),
        (lambda: [nn.Linear(2, 2)], r"got a list, write Chain\(\*layers\)"),
        (lambda: torch.relu, "got a builtin_function_or_method, which holds no layers"),
        (lambda: nn.Sequential, r"Sequential is a class: write Sequential\(\.\.\.\)"),
        (lambda: Twice(nn.Linear(2, 2)), "this Twice has a forward of its own"),
        (with_parameter, "this Sequential holds 'scale' beside its layers"),
        (with_hook, "this Sequential has hooks of its own"),
        (with_none, "layer '1' is None"),
    ],
)
def test_what_is_no_row_of_layers(given, words):
    with pytest.raises(ChainError, match=words):
        Chain.from_sequential(given())


def test_names_that_a_chain_has_itself():
    row = nn.Sequential(OrderedDict([("features", nn.Linear(2, 2)), ("classifier", nn.Linear(2, 2))]))
    with pytest.raises(ChainError, match="cannot be named 'features', since a chain has an attribute of that name"):
        Chain.from_sequential(row)


def test_what_does_not_fit():
    with pytest.raises(ShapeError, match="add needs equal shapes") as error:
        Chain.from_sequential(mlp(), wiring=[Shortcut("input", 1)])
    assert "test_from_sequential.py" in str(error.value)
    with pytest.raises(ChainError, match="no value 'stme'"):
        Chain.from_sequential(named(), wiring=[Shortcut("stme", "head")])
    with pytest.raises(ChainError, match="is inside '0', a Twice"):
        Chain.from_sequential(nn.Sequential(Twice(nn.Linear(2, 2))), wiring=[Shortcut("input", "0.0")])
    with pytest.raises(ChainError, match="positive whole numbers"):
        Chain.from_sequential(mlp(), input=(4, 0))
    shared = nn.Linear(4, 4)
    with pytest.raises(ChainError, match=r"are the same Linear object .* tie\(\.\.\.\)"):
        Chain.from_sequential(nn.Sequential(shared, shared))
    with pytest.raises(ChainError, match=r"only Chain has it"):
        Skip.from_sequential(mlp())
