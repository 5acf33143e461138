"""Weights of torchvision and timm: what was recorded of them, without them.

``bench/foreign.py --record`` wrote the names and shapes of each state dict, and outputs in double precision for weights
drawn from those names. Here the same weights are drawn again.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from skipway import (
    BatchNorm,
    Chain,
    ChainError,
    Conv,
    Dense,
    GlobalAvgPool,
    Project,
    Skip,
    relu,
    zoo,
)
from skipway.zoo.match import match, ours, parts

PATH = Path(__file__).parents[2] / "bench" / "foreign.py"
spec = importlib.util.spec_from_file_location("bench_foreign", PATH)
bench = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = bench
spec.loader.exec_module(bench)

CASES = {case.name: case for case in bench.CASES}
#: those that are run, and not only matched
RUN = [
    "torchvision-resnet18", "timm-resnet18", "torchvision-resnet50", "timm-resnext50_32x4d", "torchvision-densenet121",
    "torchvision-convnext_tiny", "timm-repvgg_a0", "timm-seresnet50", "timm-dpn68", "timm-rdnet_tiny",
    "timm-vit_tiny_patch16_224",
    *[pytest.param(name, marks=pytest.mark.slow) for name in (
        "torchvision-wide_resnet50_2", "timm-densenet121", "timm-convnext_tiny", "timm-resnet50d",
    )],
]  # fmt: skip
DEEP = re.compile("101|152|161|169|201|large|base|b1g4|mobileone|vit_b")
MATCHED = [pytest.param(name, marks=[pytest.mark.slow] * bool(DEEP.search(name))) for name in CASES]


def difference(output, expected):
    return max(abs(a - b) / abs(b) for a, b in zip(bench.told(output), expected, strict=True))


def like(peer):
    """Weights for the state dict of a peer."""
    shapes, _ = bench.recorded(CASES[peer])
    return bench.weights(shapes)


def norm(name, width):
    """What a batch norm has in a state dict."""
    held = {f"{name}.{role}": (width,) for role in ("weight", "bias", "running_mean", "running_var")}
    return {**held, f"{name}.num_batches_tracked": ()}


@pytest.mark.parametrize("name", RUN)
def test_outputs_are_those_of_the_peer(name):
    case = CASES[name]
    shapes, expected = bench.recorded(case)
    net = zoo.make(case.net, **case.options).double().eval()
    report = zoo.load(net, bench.weights(shapes))
    with torch.no_grad():
        output = net(bench.images(case.size))
    assert difference(output, expected) < 1e-9
    # every entry went somewhere, each to a place of its own, and the net has nothing else
    assert sorted(entry.foreign for entry in report.entries) == sorted(shapes)
    assert {entry.own for entry in report.entries} == set(net.state_dict())
    assert (report.skipped, report.kept) == ((), ())


@pytest.mark.parametrize("name", MATCHED)
def test_every_peer_is_matched_in_any_order(name, built):
    """Nothing rests on the order of the entries: sorted by name they go to the same places."""
    case = CASES[name]
    shapes, _ = bench.recorded(case)
    net = built(case.net, **case.options)
    own = ours(net, net.state_dict())
    state = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    pairs = match(own, parts(state))
    again = match(own, parts({key: state[key] for key in sorted(state)}), alphabetical=True)
    assert {pair.by for pair in again} <= {"shape", "number"}
    assert [(p.own.name, p.foreign.name) for p in again] == [(p.own.name, p.foreign.name) for p in pairs]


def test_an_entry_in_the_place_of_another_would_be_seen():
    state = like("torchvision-resnet18")
    state["layer4.1.bn1.bias"], state["layer4.1.bn2.bias"] = state["layer4.1.bn2.bias"], state["layer4.1.bn1.bias"]
    net = zoo.resnet18().double().eval()
    zoo.load(net, state)
    with torch.no_grad():
        assert difference(net(bench.images(64)), bench.recorded(CASES["torchvision-resnet18"])[1]) > 1e-2


# -- how it comes ------------------------------------------------------------------------------------------------------


def net_of(classes=6, width=4, more=()):
    """A small residual net, as the zoo has them."""
    block = Skip(
        Conv(width, 2 * width, 3, padding=1, bias=False), BatchNorm(2 * width), path=Project(norm=BatchNorm), act=relu
    )
    return Chain(conv=Conv(3, width, 1, bias=False), norm=BatchNorm(width), relu=relu, stage=Chain(block, *more),
                 mean=GlobalAvgPool(), head=Dense(2 * width, classes), input=(3, 4, 4))  # fmt: skip


SHAPES = {
    "conv1.weight": (4, 3, 1, 1), **norm("bn1", 4),
    "layer1.0.conv1.weight": (8, 4, 3, 3), **norm("layer1.0.bn1", 8),
    "layer1.0.downsample.0.weight": (8, 4, 1, 1), **norm("layer1.0.downsample.1", 8),
    "fc.weight": (6, 8), "fc.bias": (6,),
}  # fmt: skip
COUNTERS = {f"{name}.num_batches_tracked" for name in ("bn1", "layer1.0.bn1", "layer1.0.downsample.1")}


def state_of(**others):
    return bench.weights({**SHAPES, **others})


def test_what_is_loaded_is_what_was_given():
    net, state = net_of(), state_of()
    report = zoo.load(net, state)
    held = net.state_dict()
    for entry in report.entries:
        assert torch.equal(held[entry.own], state[entry.foreign].to(held[entry.own].dtype))
    places = {entry.foreign: entry.own for entry in report.entries}
    assert places["layer1.0.downsample.1.bias"] == "stage.0.shortcuts.input->output.path.1.bias"
    assert len(places) == len(set(places.values())) == len(held) == len(state)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {f"module.{key}": value for key, value in state.items()},
        lambda state: {f"_orig_mod.module.{key}": value for key, value in state.items()},
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": {"state_dict": state}, "args": None},
        lambda state: {key: nn.Parameter(value, requires_grad=False) for key, value in state.items()},
        lambda state: dict(reversed(state.items())),
    ],
    ids=["parallel", "compiled", "state_dict", "model", "parameters", "reversed"],
)
def test_wrapped_state_dicts(wrap):
    plain, wrapped, state = net_of(), net_of(), state_of()
    zoo.load(plain, state)
    zoo.load(wrapped, wrap(state))
    held = zip(plain.state_dict().values(), wrapped.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in held)


def test_counters_that_are_missing_stay():
    net, state = net_of(), state_of()
    report = zoo.load(net, {key: value for key, value in state.items() if key not in COUNTERS})
    assert len(report.kept) == 3
    assert all(key.endswith("num_batches_tracked") for key in report.kept)
    assert net["norm"].num_batches_tracked == 0
    assert zoo.load(net, state).kept == ()
    assert net["norm"].num_batches_tracked == state["bn1.num_batches_tracked"] != 0


def test_dense_nets_as_torchvision_saved_them_at_first(built):
    shapes, _ = bench.recorded(CASES["torchvision-densenet121"])
    state = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    old = {re.sub(r"(norm|conv)([12])\.(?=\w+$)", r"\1.\2.", key): tensor for key, tensor in state.items()}
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    net = built("densenet121")
    own = ours(net, net.state_dict())
    now, then = (match(own, parts(names)) for names in (state, old))
    assert [p.own.name for p in now] == [p.own.name for p in then]
    assert [p.foreign.name for p in now] == [re.sub(r"(norm|conv)\.([12])$", r"\1\2", p.foreign.name) for p in then]


def test_weights_take_the_precision_of_the_net():
    net, state = net_of().double(), state_of()
    zoo.load(net, {key: value.half() if value.is_floating_point() else value for key, value in state.items()})
    assert net["head"].weight.dtype == torch.float64
    assert torch.equal(net["head"].weight, state["fc.weight"].half().double())


def test_the_optimizer_keeps_its_parameters():
    net = net_of()
    before = [id(p) for p in net.parameters()]
    zoo.load(net, state_of())
    assert [id(p) for p in net.parameters()] == before
    assert all(p.requires_grad and p.is_leaf for p in net.parameters())


# -- the head ----------------------------------------------------------------------------------------------------------


def test_a_head_for_other_classes():
    net, state = net_of(classes=10), state_of()
    head = net["head"].weight.clone()
    with pytest.raises(ChainError, match=r"head is for 6 classes and this net's for 10: .* num_classes=6, or") as error:
        zoo.load(net, state)
    assert "fc.weight (6, 8) for head.weight (10, 8)" in str(error.value)
    report = zoo.load(net, state, head=False)
    assert (report.skipped, report.kept) == (("fc.weight", "fc.bias"), ("head.weight", "head.bias"))
    assert torch.equal(net["head"].weight, head)
    assert torch.equal(net["conv"].weight, state["conv1.weight"].float())
    told = [line.split() for line in str(report).splitlines()[-4:]]
    assert told == [["fc.weight", "skipped"], ["fc.bias", "skipped"], ["head.weight", "kept"], ["head.bias", "kept"]]


def test_head_false_also_leaves_out_a_head_that_would_fit_and_one_that_is_not_there():
    net, state = net_of(), state_of()
    assert zoo.load(net, state, head=False).skipped == ("fc.weight", "fc.bias")
    del state["fc.weight"], state["fc.bias"]
    report = zoo.load(net, state, head=False)
    assert (report.skipped, report.kept) == ((), ("head.weight", "head.bias"))
    with pytest.raises(ChainError, match="it has no head: write head=False"):
        zoo.load(net, state)


# -- what does not fit -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("peer", "net", "options", "words"),
    [
        ("timm-resnet34", "resnet18", {}, ["left over in the state dict (80)", "layer1.2.conv1.weight (64, 64, 3, 3)",
         "37 convolutions and dense layers, and this net 21: it looks like another depth of the same family",
         "as many parameters as zoo.make('resnet34')"]),
        ("timm-resnet18", "resnet34", {}, ["missing in the state dict (80)", "another depth of the same family"]),
        ("timm-resnet18", "resnet50", {}, ["another depth of the same family"]),
        ("timm-densenet121", "densenet169", {}, ["another depth of the same family", "zoo.make('densenet121')"]),
        ("timm-wide_resnet50_2", "resnet50", {}, ["of another shape", "looks like another width of the same family",
         "layer1.0.conv1.weight (128, 64, 1, 1) for stage1.0.0.weight (64, 64, 1, 1)", "zoo.make('wide_resnet50_2')"]),
        ("timm-resnext50_32x4d", "resnet50", {}, ["another width of the same family", "zoo.make('resnext50_32x4d')"]),
        ("timm-vit_tiny_patch16_224", "vit_tiny", {"image": 64, "residual": "layerscale"},
         ["missing in the state dict (24)", "input->output.scale (192,)", "like the same net with other options"]),
        ("timm-resnet18", "densenet121", {}, ["another architecture", "zoo.make('resnet18')"]),
        ("timm-resnet18", "resnet18", {"in_channels": 1},
         ["its first layer reads 3 channels and this net's 1", "with in_channels=3"]),
        ("timm-resnet18", "resnet18", {"in_channels": 1, "num_classes": 5}, ["in_channels=3", "num_classes=1000"]),
    ],
)  # fmt: skip
def test_another_net(peer, net, options, words, built):
    shapes, _ = bench.recorded(CASES[peer])
    with pytest.raises(ChainError) as error:
        zoo.load(built(net, **options), {key: torch.zeros(()).expand(shape) for key, shape in shapes.items()})
    for said in words:
        assert said in str(error.value)


def test_missing_left_over_and_misshapen_are_told_together():
    state = state_of(**{"aux.weight": (7,), "fc.weight": (6, 256)})
    del state["layer1.0.bn1.bias"], state["layer1.0.bn1.running_mean"]
    net = net_of()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    with pytest.raises(ChainError) as error:
        zoo.load(net, state)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    text = str(error.value)
    assert "of another shape (1):\n    fc.weight (6, 256) for head.weight (6, 8)\n" in text
    assert "missing in the state dict (2):\n    stage.0.1.bias (8,)\n    stage.0.1.running_mean (8,)\n" in text
    assert "left over in the state dict (1):\n    aux.weight (7,)\n" in text
    assert "num_classes" not in text


def test_long_lists_are_cut():
    with pytest.raises(ChainError) as error:
        zoo.load(net_of(), {**state_of(), **{f"more.{i}.weight": torch.zeros(3, 9) for i in range(90)}})
    assert "left over in the state dict (90)" in str(error.value)
    assert "... and 82 more" in str(error.value)
    assert len(str(error.value).splitlines()) < 16


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (nn.Linear(2, 2), r"got a Linear: write load\(net, it.state_dict\(\)\)"),
        ([1, 2], "tensors by name, and got a list"),
        ({}, "is empty"),
        ({"model": {}}, "is empty"),
        ({"epoch": 3, "weights": {}}, "holds a int under 'epoch'"),
        ({"conv1.weight": torch.zeros(1, device="meta")}, "'conv1.weight' of the state dict is on the meta device"),
    ],
)
def test_no_state_dict(given, words):
    with pytest.raises(ChainError, match=words):
        zoo.load(Chain(Dense(2, 2)), given)


def test_nets_that_cannot_be_loaded():
    with torch.device("meta"):
        net = Chain(Dense(2, 2))
    with pytest.raises(ChainError, match="this net is on the meta device"):
        zoo.load(net, {"fc.weight": torch.zeros(2, 2), "fc.bias": torch.zeros(2)})
    with pytest.raises(ChainError, match="no head to leave out"):
        zoo.load(Chain(relu), {"weight": torch.zeros(2, 2)}, head=False)
    with pytest.raises(ChainError, match=r"left over in the state dict \(1\)"):
        zoo.load(Chain(relu), {"weight": torch.zeros(2, 2)})


def test_the_report_prints_a_line_for_each_module():
    lines = str(zoo.load(net_of(), state_of())).splitlines()
    assert lines[0] == "20 tensors loaded, 0 skipped, 0 kept"
    assert [line.split()[0] for line in lines[1:]] == [
        "conv1", "bn1", "layer1.0.conv1", "layer1.0.bn1", "layer1.0.downsample.0", "layer1.0.downsample.1", "fc",
    ]  # fmt: skip
    assert lines[5].split(maxsplit=2)[1:] == ["stage.0.shortcuts.input->output.path.0", "weight (8, 4, 1, 1)"]
