import copy
import functools
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import skipway
from skipway import (
    AvgPool,
    BatchNorm,
    Chain,
    ChainError,
    Conv,
    Dense,
    Flatten,
    GlobalAvgPool,
    LayerNorm,
    MaxPool,
    OpenChainError,
    relu,
    softmax,
    tie,
)


class Affine:
    """A plain callable with a parameter."""

    def __init__(self) -> None:
        self.by = nn.Parameter(torch.ones(4))

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.by


# -- Dense -------------------------------------------------------------------------------------------------------------


def test_dense_is_linear_with_an_activation(x4):
    layer = Dense(4, 5, relu)
    assert isinstance(layer, nn.Linear)
    assert torch.equal(layer(x4), torch.relu(F.linear(x4, layer.weight, layer.bias)))
    assert list(layer.state_dict()) == list(nn.Linear(4, 5).state_dict())


def test_dense_draws_the_weights_that_linear_draws():
    torch.manual_seed(3)
    ours = Dense(4, 5)
    torch.manual_seed(3)
    theirs = nn.Linear(4, 5)
    assert torch.equal(ours.weight, theirs.weight)
    assert torch.equal(ours.bias, theirs.bias)


def test_dense_without_bias_has_none():
    assert Dense(4, 5, bias=False).bias is None
    assert Chain(Dense(..., 5, bias=False)).build(4)[0].bias is None


def test_activation_that_is_a_module_or_holds_parameters_is_registered():
    assert [n for n, _ in Dense(4, 4, nn.PReLU()).named_parameters()] == ["weight", "bias", "act.weight"]
    assert [n for n, _ in Dense(4, 4, Affine()).named_parameters()] == ["weight", "bias", "act.by"]


@pytest.mark.parametrize("width", [0, -1, 2.0, "4", True, None])
def test_widths_that_are_no_widths_are_refused_with_the_place(width):
    with pytest.raises(ChainError, match=r"positive whole number.*test_layers\.py:\d+"):
        Dense(width, 4)
    with pytest.raises(ChainError, match=r"positive whole number.*test_layers\.py:\d+"):
        Dense(4, width)


def test_only_the_in_width_may_be_open():
    with pytest.raises(ChainError, match="the out width must be a positive whole number, not \\.\\.\\."):
        Dense(4, ...)


@pytest.mark.parametrize("act", [True, "relu", 3])
def test_activation_that_cannot_be_called_is_refused(act):
    with pytest.raises(ChainError, match="activation must be callable, such as relu"):
        Dense(4, 4, act)


# -- open layers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layer", "x"),
    [
        (lambda: Dense(..., 4), torch.ones(2, 4)),
        (lambda: Conv(..., 4, 3), torch.ones(2, 1, 8, 8)),
        (lambda: BatchNorm(), torch.ones(2, 4)),
        (lambda: LayerNorm(), torch.ones(2, 4)),
    ],
)
def test_an_open_layer_by_itself_refuses_to_run(layer, x):
    # an open BatchNorm would otherwise run without weight and statistics, and nobody would notice
    with pytest.raises(OpenChainError, match=r"waits for|width"):
        layer()(x)


@pytest.mark.parametrize(
    ("layer", "shape", "names"),
    [
        (lambda: Dense(..., 4), (6,), {"weight": (4, 6), "bias": (4,)}),
        (lambda: Dense(..., 4), (3, 6), {"weight": (4, 6), "bias": (4,)}),
        (lambda: Conv(..., 4, 3), (2, 8, 8), {"weight": (4, 2, 3, 3), "bias": (4,)}),
        (lambda: Conv(..., 4, (3,), groups=2), (2, 8), {"weight": (4, 1, 3), "bias": (4,)}),
        (lambda: BatchNorm(), (6,), {"weight": (6,), "bias": (6,)}),
        (lambda: LayerNorm(), (3, 6), {"weight": (6,), "bias": (6,)}),
    ],
)
def test_an_open_layer_closes_to_the_width_that_arrives(layer, shape, names):
    net = Chain(layer())
    assert net.is_open
    net.build(shape)
    assert {n.split(".")[1]: tuple(p.shape) for n, p in net.named_parameters()} == names
    assert net(torch.ones(2, *shape)).shape[0] == 2


def test_a_closed_inferred_layer_draws_what_an_explicit_one_draws():
    torch.manual_seed(1)
    inferred = Chain(Dense(..., 5)).build(4)
    torch.manual_seed(1)
    explicit = Chain(Dense(4, 5))
    assert torch.equal(inferred[0].weight, explicit[0].weight)


def test_groups_that_do_not_divide_what_arrives_are_told():
    with pytest.raises(ChainError, match=r"3 channels of what arrives into groups=2"):
        Chain(Conv(..., 4, 3, groups=2), input=(3, 8, 8))


# -- Conv --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dims", "torch_class"), [(1, nn.Conv1d), (2, nn.Conv2d), (3, nn.Conv3d)])
def test_conv_is_torchs_convolution(dims, torch_class):
    torch.manual_seed(1)
    ours = Conv(2, 4, 3, relu, stride=2, padding=1, dims=dims)
    torch.manual_seed(1)
    theirs = torch_class(2, 4, 3, stride=2, padding=1)
    x = torch.randn(2, 2, *[7] * dims)
    assert isinstance(ours, torch_class)
    assert torch.equal(ours(x), theirs(x).relu())


def test_conv_takes_its_dimensions_from_the_kernel():
    assert isinstance(Conv(1, 1, (3,)), nn.Conv1d)
    assert isinstance(Conv(1, 1, (3, 5)), nn.Conv2d)
    assert isinstance(Conv(1, 1, (3, 3, 3)), nn.Conv3d)
    assert isinstance(Conv(1, 1, 3), nn.Conv2d)


def test_softmax_of_a_convolution_goes_over_the_channels():
    x = torch.randn(2, 3, 5, 5)
    out = Conv(3, 4, 1, softmax)(x)
    assert torch.allclose(out.sum(1), torch.ones(2, 5, 5))


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: Conv(3, 8, 3, groups=2), "not divisible by groups=2"),
        (lambda: Conv(3, 8, (3, 3), dims=1), "2 dimensions, dims=1"),
        (lambda: Conv(3, 8, 3, dims=4), "dims is 1, 2 or 3"),
        (lambda: Conv(3, 8, 0), "kernel must be a positive whole number"),
        (lambda: Conv(3, 8, 3, 1), "activation must be callable"),
    ],
)
def test_conv_refuses_what_cannot_work(make, what):
    with pytest.raises(ChainError, match=what):
        make()


# -- norms and pools ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("theirs", "shape"),
    [(nn.BatchNorm1d, (6,)), (nn.BatchNorm1d, (6, 5)), (nn.BatchNorm2d, (6, 5, 5)), (nn.BatchNorm3d, (6, 3, 3, 3))],
)
def test_batch_norm_is_torchs_for_every_number_of_dimensions(theirs, shape):
    ours, reference, x = BatchNorm(6), theirs(6), torch.randn(4, *shape)
    assert torch.equal(ours(x), reference(x))
    assert all(torch.equal(a, b) for a, b in zip(ours.buffers(), reference.buffers(), strict=True))
    assert torch.equal(ours.eval()(x), reference.eval()(x))


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_pools_are_torchs_for_every_number_of_dimensions(dims):
    x = torch.randn(2, 3, *[8] * dims)
    largest = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[dims - 1]
    mean = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[dims - 1]
    assert torch.equal(MaxPool(3, stride=2, padding=1)(x), largest(x, 3, 2, 1))
    assert torch.equal(AvgPool(2)(x), mean(x, 2))
    assert torch.equal(GlobalAvgPool()(x), x.mean(tuple(range(2, dims + 2))))


def test_pools_say_what_they_take():
    with pytest.raises(ChainError, match=r"MaxPool\(2\) pools \(N, C, size...\), not \(2, 3\)"):
        MaxPool(2)(torch.ones(2, 3))
    with pytest.raises(ChainError, match="GlobalAvgPool takes"):
        GlobalAvgPool()(torch.ones(2, 3))


# -- copies and code ---------------------------------------------------------------------------------------------------

LAYERS = [
    lambda: Dense(4, 5, relu),
    lambda: Dense(4, 5, nn.PReLU(), bias=False),
    lambda: Dense(..., 5),
    lambda: Conv(2, 4, 3, relu, stride=2, padding=1),
    lambda: Conv(..., 4, (3,), padding="same"),
    lambda: Conv(2, 4, 3, dims=3, dilation=2),
    lambda: BatchNorm(),
    lambda: BatchNorm(8, eps=1e-3, affine=False),
    lambda: LayerNorm(8, bias=False),
    lambda: LayerNorm(),
    lambda: MaxPool(2, stride=1),
    lambda: AvgPool(3, padding=1),
    lambda: GlobalAvgPool(),
    lambda: Flatten(),
]


@pytest.mark.parametrize("make", LAYERS)
def test_layers_survive_deepcopy_and_pickle(make):
    layer = make()
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert repr(twin) == repr(layer)
        assert {k: tuple(v.shape) for k, v in twin.state_dict().items()} == {
            k: tuple(v.shape) for k, v in layer.state_dict().items()
        }


@pytest.mark.parametrize("make", LAYERS)
def test_the_code_of_a_layer_makes_it_again(make):
    code = repr(Chain(make()))
    again = eval(code, {**vars(skipway), "nn": nn})
    assert repr(again) == code


def test_softmax_prints_as_softmax_in_a_convolution_too():
    assert "partial" not in repr(Conv(1, 2, 1, softmax))
    assert "partial" not in repr(Chain(Conv(1, 2, 1, softmax)))


def test_partial_activation_works(x4):
    layer = Dense(4, 4, functools.partial(F.leaky_relu, negative_slope=0.5))
    assert torch.equal(layer(x4), F.leaky_relu(F.linear(x4, layer.weight, layer.bias), 0.5))


# -- tie ---------------------------------------------------------------------------------------------------------------


def test_tied_layer_is_shared_on_purpose(x4):
    shared = tie(Dense(4, 4, relu))
    net = Chain(shared, shared, shared)
    assert sum(p.numel() for p in net.parameters()) == 20
    assert torch.equal(net(x4), shared(shared(shared(x4))))


def test_tied_callable_is_shared_on_purpose(x4):
    shared = tie(Affine())
    net = Chain(Dense(4, 4), shared, shared)
    assert len(list(net.parameters())) == 3
    assert net(x4).shape == (3, 4)
