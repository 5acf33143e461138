import functools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import skipway
from skipway import (
    BatchNorm,
    Cat,
    Chain,
    Conv,
    Dense,
    Drop,
    Flatten,
    Gate,
    LayerNorm,
    Learned,
    MaxPool,
    Pad,
    Parallel,
    Project,
    Shortcut,
    Skip,
    dense,
    every,
    relu,
    sliding,
    softmax,
    tie,
)

SPACE = {**vars(skipway), "nn": nn, "torch": torch, "F": F}

MORE = [Shortcut(1, 2)]
NETS = {
    "question": lambda: Chain(
        Dense(10, 5, relu), Dense(5, 4, relu), Dense(4, 2, relu), wiring=every(1, path="project")
    ),
    "named": lambda: Chain(
        stem=Dense(4, 4, relu), a=Dense(..., 4, bias=False), wiring=[Shortcut("stem", "a", merge="cat")]
    ),
    "odd names": lambda: Chain(
        {"a b": Dense(4, 4), "class": Dense(4, 4), "it's": Dense(4, 4), 'q"': Dense(4, 4), "\\": relu}
    ),
    "skip": lambda: Chain(
        Skip(Dense(4, 4), Dense(4, 4), act=relu, scale=Learned(0.1, per="channel"), drop=Drop(0.5, "batch"))
    ),
    "skip options": lambda: Skip(Dense(4, 6), merge=Cat(first="shortcut"), path=Project(always=True, bias=True)),
    "images": lambda: Chain(
        Conv(3, 8, 3, relu, padding=1),
        BatchNorm(),
        MaxPool(2),
        Skip(Conv(8, 8, 3, padding=1), path=Pad()),
        Flatten(),
        Dense(..., 10, softmax),
        input=(3, 8, 8),
    ),
    "torch's own": lambda: Chain(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.GroupNorm(2, 8),
        nn.PReLU(),
        nn.Dropout(0.3),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 4, bias=False),
        nn.LayerNorm(4),
        nn.Softmax(dim=-1),
    ),
    "sequential": lambda: Chain(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), nn.Sequential(Dense(4, 3), nn.Tanh())),
    "functions": lambda: Chain(Dense(4, 4, torch.sin), torch.tanh, F.gelu, F.leaky_relu, nn.functional.elu, torch.abs),
    "merges": lambda: Chain(
        Dense(4, 4),
        Dense(4, 4),
        Dense(4, 4),
        wiring=[
            Shortcut(0, 1, merge=torch.maximum),
            Shortcut(1, 2, merge=Gate(-1.0)),
            Shortcut(2, 3, act=F.leaky_relu, path=torch.neg),
        ],
    ),
    "norm in project": lambda: Chain(
        Conv(3, 4, 3, padding=1), input=(3, 8, 8), wiring=every(1, path=Project(norm=nn.BatchNorm2d))
    ),
    "patterns": lambda: Chain(*[Dense(4, 4) for _ in range(4)], wiring=every(2) + MORE + sliding(3, merge="mean")),
    "dense": lambda: Chain(*[Dense(..., 4) for _ in range(4)], input=4, wiring=dense(merge="cat")),
    "tied": lambda: (lambda layer: Chain(layer, relu, layer))(tie(Dense(4, 4))),
    "tied deep": lambda: (lambda layer: Chain(Skip(layer), Parallel(layer, Dense(4, 4))))(tie(Dense(4, 4))),
    "parallel": lambda: Chain(Parallel(Dense(4, 3), Chain(Dense(4, 3), relu), merge="cat"), Dense(..., 2)),
    "open": lambda: Chain(Dense(..., 4), LayerNorm()),
    "nested": lambda: Chain(
        enc=Chain(a=Dense(4, 4), b=Dense(4, 4)), dec=Dense(4, 4), wiring=[Shortcut("enc.a", "dec")]
    ),
    "empty": lambda: Chain(),
    "input": lambda: Chain(relu, Dense(..., 3), input=(7, 4)),
}


@pytest.mark.parametrize("make", NETS.values(), ids=NETS.keys())
def test_repr_builds_the_net_again(make):
    net = make()
    again = eval(repr(net), dict(SPACE))
    assert repr(again) == repr(net)
    assert again.wiring == net.wiring
    if net.is_open:
        assert again.is_open
        return
    shapes = {k: tuple(v.shape) for k, v in net.state_dict().items()}
    assert {k: tuple(v.shape) for k, v in again.state_dict().items()} == shapes
    again.load_state_dict(net.state_dict())
    if net.plan.input.shape is not None and None not in net.plan.input.shape:
        x = torch.randn(2, *net.plan.input.shape)
        assert torch.equal(again.eval()(x), net.eval()(x))


def test_repr_of_a_tied_layer_ties_it_again():
    net = eval(repr(NETS["tied"]()), dict(SPACE))
    assert net[0] is net[2]


def test_repr_after_editing_is_the_edited_net(x4):
    net = Chain(a=Dense(4, 4), b=Dense(4, 4), wiring=every(1))
    for other in (
        net.insert("b", relu, "r"),
        net.without("0->1"),
        net.replace("a", Dense(4, 4, relu)),
        net[:1],
        net.plain(),
    ):
        again = eval(repr(other), dict(SPACE))
        again.load_state_dict(other.state_dict())
        assert torch.equal(again(x4), other(x4))


@pytest.mark.parametrize(
    "layer",
    [
        lambda: nn.Conv1d(2, 4, 3, stride=2, groups=2, bias=False),
        lambda: nn.ConvTranspose2d(2, 4, 2, stride=2, output_padding=1),
        lambda: nn.MultiheadAttention(4, 2),
        lambda: nn.Embedding(10, 4),
        lambda: nn.Upsample(scale_factor=2),
        lambda: nn.LeakyReLU(0.2),
        lambda: nn.LSTM(4, 4, batch_first=True),
        lambda: nn.AvgPool2d(2, stride=1),
        lambda: nn.Unflatten(1, (2, 2)),
        lambda: nn.BatchNorm1d(4, affine=False),
        lambda: nn.PixelShuffle(2),
        lambda: nn.ZeroPad2d(1),
    ],
)
def test_torch_modules_print_as_code_that_makes_them(layer):
    from skipway.layer import module_code

    module = layer()
    assert repr(eval(module_code(module), dict(SPACE))) == repr(module)


def test_what_cannot_be_said_is_at_least_not_said_wrongly():
    net = Chain(lambda x: x, functools.partial(F.leaky_relu, negative_slope=0.3))
    assert "<lambda>" in repr(net)
    assert "leaky_relu" in repr(net)
