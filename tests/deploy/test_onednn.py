"""Straight-line code on fused operators: what becomes one call, what is written over, and what is left to PyTorch."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import nn

from skipway import (
    BatchNorm,
    Cat,
    CatSkip,
    Chain,
    Conv,
    Dense,
    Flatten,
    GlobalAvgPool,
    MaxPool,
    Shortcut,
    Skip,
    dense,
    relu,
    tanh,
)
from skipway.deploy import compile, engines, fold, onednn
from skipway.deploy.engines import Unfit
from skipway.deploy.onednn import program
from skipway.deploy.straight import growing, operations, unary

fused = pytest.mark.skipif(bool(onednn.missing("fp32")), reason=onednn.missing("fp32"))


def kinds(net: Chain) -> list[str]:
    """The operations of a net in words: ``conv+plus+act``."""
    return [
        op.what + ("+plus" if op.plus is not None else "") + ("+act" if op.act is not None else "")
        for op in operations(net.eval())[1:]
    ]


def image(rows: int = 2, side: int = 8) -> torch.Tensor:
    return torch.randn(rows, 4, side, side).contiguous(memory_format=torch.channels_last)


def conv(act=None, **options) -> Conv:
    return Conv(4, 4, 3, act, padding=1, **options)


# -- what becomes one operation ----------------------------------------------------------------------------------------


def test_a_residual_block_is_two_calls():
    assert kinds(Chain(conv(), Skip(conv(relu), conv(), act=relu))) == ["conv", "conv+act", "conv+plus+act"]


def test_a_projection_takes_the_sum_too():
    block = Skip(conv(relu), conv(), path=Conv(4, 4, 1), act=relu)
    assert kinds(Chain(block)) == ["conv+act", "conv", "conv+plus+act"]


def test_the_activation_inside_keeps_the_sum_out():
    assert kinds(Chain(conv(), Skip(conv(relu)))) == ["conv", "conv+act", "add"]


def test_a_value_read_twice_is_not_taken_over():
    net = Chain(conv(), conv(), relu, conv(), wiring=[Shortcut(2, 4)], input=(4, 8, 8))
    assert kinds(net) == ["conv", "conv", "act", "conv+plus"]


def test_a_shortcut_around_a_dense_layer_joins_its_weights():
    net = Chain(*[Skip(Dense(6, 6, relu)) for _ in range(3)])
    assert kinds(net) == ["max"] * 3
    x = torch.randn(5, 6, dtype=torch.float64)
    with torch.inference_mode():
        assert torch.allclose(program(net.double(), x).function()(x), net(x), rtol=1e-12, atol=1e-12)


def test_other_activations_stay_with_the_plain_sum():
    assert kinds(Chain(Skip(Dense(6, 6, tanh)))) == ["dense+act", "add"]
    assert kinds(Chain(Skip(Dense(6, 6), Dense(6, 6, relu)))) == ["dense", "dense+act", "add"]


def test_what_does_nothing_is_no_operation():
    assert kinds(Chain(nn.Dropout(0.5), Dense(3, 3), nn.Identity())) == ["dense"]


@pytest.mark.parametrize(
    "act", [torch.relu, nn.LeakyReLU(0.3), nn.GELU(), nn.GELU("tanh"), torch.sigmoid, nn.SiLU(), nn.Hardswish()]
)
@fused
def test_activations_inside_the_operator(act):
    net = Chain(conv(act)).eval()
    written = program(net, image())
    assert unary(act) is not None
    assert "conv" in written.source
    assert len([line for line in written.source.splitlines() if "= " in line]) == 1
    assert not written.plain
    x = image()
    with torch.inference_mode():
        assert torch.allclose(written.function()(x), net(x), atol=1e-5)


@fused
def test_an_activation_that_the_operator_does_not_know():
    net = Chain(conv(torch.sin)).eval()
    x = image()
    with torch.inference_mode():
        assert torch.allclose(program(net, x).function()(x), net(x), atol=1e-5)


# -- memory ------------------------------------------------------------------------------------------------------------


@fused
def test_a_dead_shortcut_is_added_to_in_place_and_a_live_one_is_not():
    dead = program(Chain(conv(), Skip(conv(relu), conv(), act=relu)).eval(), image())
    live = program(Chain(Skip(conv(relu), conv(), act=relu)).eval(), image())  # the shortcut carries the input
    in_place = torch.ops.mkldnn._convolution_pointwise_.binary
    assert in_place in dead._names.values()
    assert in_place not in live._names.values()


@pytest.mark.parametrize(
    "net",
    [
        Chain(Skip(conv(relu), conv(), act=relu)),
        Chain(relu, Skip(conv(relu))),
        Chain(conv(), conv(), conv(), wiring=[Shortcut(0, 2), Shortcut(0, 3), Shortcut(1, 3)]),
        Chain(conv(), Flatten(), Dense(256, 256), wiring=[Shortcut(2, 3)], input=(4, 8, 8)),
    ],
)
def test_the_input_stays_as_it_is_and_the_output_is_the_callers(net):
    net = net.eval()
    x = image()
    run = engines.onednn(fold(net, x, check=False), x, "fp32")
    given = x.clone()
    first = run(x)
    kept = first.clone()
    run(image())
    assert torch.equal(x, given)
    assert torch.equal(first, kept)
    with torch.no_grad():
        assert torch.allclose(kept, net(x), atol=1e-5)


FORWARDS, OTHERWISE = Cat(first="shortcut"), Cat()


def dense_block(block: str = "forwards") -> Chain:
    units = [[BatchNorm(), relu, Conv(..., 3, 3, padding=1)] for _ in range(5)]
    if block == "nested":
        inner = Chain(*[CatSkip(*unit) for unit in units])
    else:
        merge = FORWARDS if block == "forwards" else OTHERWISE
        inner = Chain(*[Chain(*unit) for unit in units], wiring=dense(tap="branch", merge=merge))
    net = Chain(conv(), inner, BatchNorm(), relu, GlobalAvgPool(), Dense(..., 2), input=(4, 8, 8)).eval()
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
    return net


@pytest.mark.parametrize("block", ["forwards", "nested", "no order"])
def test_a_dense_block_has_one_room(block):
    net = dense_block(block)
    found = growing(operations(net))
    assert [forwards for _, forwards in found] == {"forwards": [True], "nested": [False], "no order": []}[block]
    x = image()
    written = program(net, x)
    assert written.source.count("rooms.room") == len(found)
    assert ("torch.cat" in written.source) == (block == "no order")
    run = written.function()
    with torch.inference_mode():
        for rows, side in [(2, 8), (5, 8), (1, 8), (2, 6), (2, 8)]:
            x = image(rows, side)
            assert torch.allclose(run(x), net(x), atol=1e-5)


def test_rooms_are_each_threads_own():
    net = dense_block()
    run = engines.onednn(fold(net, check=False), image(), "fp32")
    inputs = [image(3) for _ in range(6)]
    with torch.no_grad():
        expected = [net(x) for x in inputs]
    wrong = []

    def work(which: int) -> None:
        for _ in range(15):
            if not torch.allclose(run(inputs[which]), expected[which], atol=1e-5):
                wrong.append(which)

    with torch.inference_mode():
        run(image(7))  # a room that was made there is written to elsewhere too
    run(image(7))
    threads = [threading.Thread(target=work, args=(which,)) for which in range(len(inputs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_concatenation_that_a_convolution_reads_is_an_ordinary_one():
    units = [Conv(..., 3, 3, padding=1) for _ in range(5)]
    net = Chain(conv(), Chain(*units, wiring=dense(tap="branch", merge="cat")), input=(4, 8, 8)).eval()
    assert not growing(operations(net))
    x = image()
    with torch.inference_mode():
        assert torch.allclose(program(net, x).function()(x), net(x), atol=1e-5)


# -- what the operators do not take ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("net", "shape"),
    [
        (Chain(Conv(3, 4, 3, relu, dims=1, padding=1), Skip(Conv(4, 4, 3, dims=1, padding=1))), (3, 9)),
        (Chain(Conv(3, 4, 3, relu, dims=3, padding=1)), (3, 5, 5, 5)),
        (Chain(nn.ConvTranspose2d(4, 3, 2, stride=2)), (4, 5, 5)),
        (Chain(Conv(4, 4, 3, padding="same", padding_mode="reflect"), relu), (4, 6, 6)),
        (Chain(Conv(4, 8, 3, relu, groups=2, stride=2, dilation=2)), (4, 9, 9)),
        (Chain(Dense(5, 5), Skip(Dense(5, 5, relu))), (3, 5)),
        (Chain(nn.LayerNorm(4)), (3, 4)),
    ],
)
def test_shapes_and_layers_of_other_kinds(net, shape):
    net = net.eval()
    x = torch.randn(2, *shape)
    run = engines.onednn(fold(net, x, check=False), x, "fp32")
    with torch.no_grad():
        for rows in (x, x[:1], torch.cat([x, x])):
            assert torch.allclose(run(rows), net(rows), atol=1e-5)


def test_what_was_left_to_pytorch_is_told():
    net = Chain(Conv(3, 4, 3, relu, dims=1, padding=1)).eval()
    assert program(net, torch.randn(1, 3, 9)).plain == ["v1: the fused convolution works on images"]


def test_images_of_another_size_take_the_chain_itself():
    net = Chain(conv(relu), MaxPool(2), GlobalAvgPool(), input=(4, 8, 8)).eval()
    run = engines.onednn(fold(net, check=False), image(), "fp32")
    x = image(side=12)
    with torch.no_grad():
        assert torch.allclose(run(x), net(x), atol=1e-5)


def test_an_operator_that_is_not_there(monkeypatch):
    monkeypatch.delitem(engines.ENGINES, "compile")  # it takes a minute
    monkeypatch.setattr(onednn, "OPERATORS", (*onednn.OPERATORS, "_no_such_operator"))
    net = Chain(conv()).eval()
    with pytest.raises(Unfit, match=r"no torch\.ops\.mkldnn\._no_such_operator"):
        engines.onednn(fold(net, image(), check=False), image(), "fp32")
    fast = compile(net, image(), seconds=0.01)
    why = {c.engine: c.why for c in fast.candidates}
    assert why["onednn"] == "this PyTorch has no torch.ops.mkldnn._no_such_operator"
    assert fast.engine != "onednn"


def test_bf16():
    if not onednn.missing("bf16"):
        x = image()
        net = Chain(conv(relu), Skip(conv(relu), conv(), act=relu)).eval()
        run = engines.onednn(fold(net, x, check=False), x, "bf16")
        with torch.no_grad():
            assert torch.allclose(run(x), net(x), atol=0.1)
    else:
        with pytest.raises(Unfit, match=r"bf16|oneDNN"):
            engines.onednn(fold(Chain(conv()).eval(), image(), check=False), image(), "bf16")
