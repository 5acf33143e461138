"""Shortcuts inside a weight: a DiracConv is a residual block of one layer, and a plain convolution once folded."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

import skipway
from skipway import BatchNorm, Chain, ChainError, Conv, DiracConv, Learned, OpenChainError, Skip, relu
from skipway.gains import undecayed


def shaken(layer):
    """The layer with other a and b than it begins with."""
    nn.init.normal_(layer.alpha)
    nn.init.normal_(layer.beta)
    return layer.double()


@pytest.mark.parametrize(
    ("width", "kernel", "size"),
    [(4, 3, (6, 5)), (7, 3, (6, 5)), (4, 5, (6, 5)), (4, (3,), (9,)), (4, (3, 1, 5), (4, 3, 6))],
)
def test_it_is_a_residual_block_of_one_layer(width, kernel, size):
    layer = shaken(DiracConv(4, width, kernel, bias=False))
    sides = kernel if isinstance(kernel, tuple) else (kernel, kernel)
    conv = Conv(4, width, sides, padding=tuple(k // 2 for k in sides), bias=False)
    gains = {"scale": Learned(0.1, per="channel"), "path_scale": Learned(1.0, per="channel")}
    block = Skip(conv, path="pad", **gains).build((4, *size)).double()
    norms = layer.weight.flatten(1).norm(dim=1).view(-1, *[1] * (layer.weight.dim() - 1))
    conv.weight.data = layer.weight.data / norms
    edge = block.shortcuts["input->output"]
    edge.scale.data = layer.beta.data.view(edge.scale.shape)
    edge.path_scale.data = layer.alpha.data.view(edge.path_scale.shape)
    x = torch.randn(2, 4, *size, dtype=torch.double)
    assert torch.allclose(layer(x), block(x), atol=1e-12)


def test_fewer_channels_are_the_first_ones():
    layer = DiracConv(5, 3, 3, bias=False)
    nn.init.zeros_(layer.beta)
    x = torch.randn(2, 5, 4, 4)
    assert torch.equal(layer(x), x[:, :3])


def test_it_begins_near_the_identity():
    torch.manual_seed(0)
    layer = DiracConv(16, 16, 3, bias=False)
    x = torch.randn(8, 16, 8, 8)
    assert (layer.alpha == 1).all()
    assert torch.equal(layer.beta, torch.full((16,), 0.1))
    # every filter has length 1, so that the branch is a tenth as large as the value
    assert (layer(x) - x)[..., 1:-1, 1:-1].std().item() == pytest.approx(0.1, rel=0.1)


def test_the_size_of_the_filters_does_not_matter():
    layer = DiracConv(3, 4, 3)
    x = torch.randn(2, 3, 5, 5)
    before = layer(x)
    layer.weight.data *= torch.rand(4, 1, 1, 1) + 0.5
    assert torch.allclose(layer(x), before, atol=1e-6)


@pytest.mark.parametrize("options", [{}, {"bias": False}, {"act": relu}, {"kernel_size": (5,)}, {"dims": 3}])
def test_folded_is_a_plain_convolution(options):
    layer = DiracConv(3, 4, **{"kernel_size": 3, **options})
    nn.init.normal_(layer.alpha)
    plain = layer.folded()
    assert type(plain).__mro__[1] is Conv
    assert sum(p.numel() for p in plain.parameters()) == sum(p.numel() for p in layer.parameters()) - 2 * 4
    x = torch.randn(2, 3, *[6] * layer.dims)
    assert torch.equal(plain(x), layer(x))
    assert plain.weight.requires_grad


def test_folded_keeps_dtype_and_mode():
    plain = DiracConv(3, 4, 3).double().eval().folded()
    assert plain.weight.dtype is torch.double
    assert not plain.training


def test_gradients():
    layer = shaken(DiracConv(2, 3, 3))
    x = torch.randn(2, 2, 4, 4, dtype=torch.double, requires_grad=True)
    names = [name for name, _ in layer.named_parameters()]
    values = [p.detach().clone().requires_grad_() for p in layer.parameters()]

    def run(x, *values):
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x,))

    assert set(names) == {"weight", "bias", "alpha", "beta"}
    assert torch.autograd.gradcheck(run, (x, *values))


def test_weight_decay_leaves_a_and_b_alone():
    assert [name for name, _ in undecayed(Chain(DiracConv(2, 2, 3)))] == ["0.alpha", "0.beta"]


def test_a_width_that_arrives():
    net = Chain(DiracConv(..., 5, 3, relu), BatchNorm(), DiracConv(..., 6, 3))
    with pytest.raises(OpenChainError):
        list(net.parameters())
    net.build((3, 8, 8))
    assert [(p.shape[0], p.requires_grad) for p in (net[0].alpha, net[2].beta)] == [(5, True), (6, True)]
    assert net(torch.zeros(2, 3, 8, 8)).shape == (2, 6, 8, 8)
    with pytest.raises(ChainError, match=r"DiracConv\(4, 5, 3\)|takes 4"):
        Chain(Conv(1, 3, 1), DiracConv(4, 5, 3))


@pytest.mark.parametrize(
    "layer",
    [
        DiracConv(3, 4, 3),
        DiracConv(3, 4, (3, 5), relu, bias=False),
        DiracConv(3, 4, (3,)),
        DiracConv(3, 4, 3, dims=3),
        DiracConv(..., 4, 3),
    ],
    ids=lambda layer: layer.code(),
)
def test_its_code_makes_it_again(layer):
    again = eval(layer.code(), vars(skipway))
    assert again.code() == layer.code()
    assert type(again) is type(layer)
    assert {k: v.shape for k, v in again.state_dict().items()} == {k: v.shape for k, v in layer.state_dict().items()}


def test_copies_and_exports():
    net = Chain(DiracConv(3, 4, 3, relu), input=(3, 6, 6)).eval()
    x = torch.randn(2, 3, 6, 6)
    out = net(x)
    assert torch.equal(copy.deepcopy(net)(x), out)
    assert torch.equal(pickle.loads(pickle.dumps(net))(x), out)
    assert torch.allclose(torch.export.export(net, (x,)).module()(x), out, atol=1e-6)
    assert net.to(memory_format=torch.channels_last)(x).shape == out.shape
    with torch.autocast("cpu", torch.bfloat16):
        assert net(x).isfinite().all()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: DiracConv(3, 4, 2), "a kernel of 2 has no middle for the identity: take 1 or 3"),
        (lambda: DiracConv(3, 4, (3, 4)), "a kernel of 4"),
        (lambda: DiracConv(3, 4, 3, dims=4), "dims is 1, 2 or 3, not 4"),
        (lambda: DiracConv(3, 4, (3, 3), dims=3), "has 2 dimensions, dims=3"),
        (lambda: DiracConv(0, 4, 3), "the in width must be a positive whole number"),
        (lambda: DiracConv(3, 4, 0), "the kernel must be a positive whole number"),
        (lambda: DiracConv(3, 4, 3.0), "the kernel must be a positive whole number"),
        (lambda: DiracConv(3, 4, 3, 1), "the activation must be callable"),
    ],
)
def test_what_cannot_be(make, words):
    with pytest.raises(ChainError, match=words):
        make()
