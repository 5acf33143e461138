import pytest
import torch
import torch.nn.functional as F
from torch import nn

from skipway import (
    BatchNorm,
    Chain,
    ChainError,
    Conv,
    Dense,
    OpenChainError,
    Pad,
    Project,
    ShapeError,
    Shortcut,
    Skip,
    every,
    relu,
)
from skipway.paths import Path


def only(net):
    """The connection of a net with one shortcut."""
    (shortcut,) = net.wiring
    return net.shortcuts[shortcut.label]


# -- project -----------------------------------------------------------------------------------------------------------


def test_project_is_a_linear_map_to_the_width_of_the_branch(x4):
    net = Skip(Dense(4, 6, relu), path="project")
    w = only(net).path.weight
    assert w.shape == (6, 4)
    assert torch.equal(net(x4), net[0](x4) + F.linear(x4, w))


def test_project_is_left_out_where_shapes_are_equal():
    assert only(Skip(Dense(4, 4), path="project")).path is None
    assert list(Skip(Dense(4, 4), path="project").state_dict()) == ["0.weight", "0.bias"]
    assert only(Skip(Dense(4, 4), path=Project(always=True))).path.weight.shape == (4, 4)


@pytest.mark.parametrize(("stride", "size"), [(1, 8), (2, 8), (2, 9), (3, 8), (4, 16)])
def test_project_of_images_finds_the_stride_of_the_branch(stride, size):
    net = Skip(Conv(3, 5, 3, stride=stride, padding=1), path="project", input=(3, size, size))
    path = only(net).path
    assert path.kernel_size == (1, 1)
    assert path.stride == (stride, stride)
    x = torch.randn(2, 3, size, size)
    assert torch.equal(net(x), net[0](x) + F.conv2d(x, path.weight, stride=stride))


def test_project_of_images_of_unknown_size_finds_the_stride():
    assert only(Skip(Conv(3, 5, 3, stride=2, padding=1), path="project")).path.stride == (2, 2)


def test_project_strides_each_direction_by_itself():
    net = Skip(Conv(1, 2, 3, stride=(2, 1), padding=1), path="project", input=(1, 8, 8))
    assert only(net).path.stride == (2, 1)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_project_for_every_number_of_dimensions(dims):
    net = Skip(Conv(3, 5, 3, stride=2, padding=1, dims=dims), path="project", input=(3, *[8] * dims))
    assert net(torch.randn(2, 3, *[8] * dims)).shape == (2, 5, *[4] * dims)


def test_project_of_tokens_maps_the_last_axis():
    net = Skip(Dense(4, 6), path="project", input=(7, 4))
    assert only(net).path.weight.shape == (6, 4)
    assert net(torch.randn(2, 7, 4)).shape == (2, 7, 6)


def test_project_takes_a_norm_and_a_bias():
    net = Skip(Conv(3, 5, 3, padding=1), path=Project(norm=BatchNorm, bias=True), input=(3, 8, 8))
    linear, norm = only(net).path
    assert linear.bias is not None
    assert isinstance(norm, BatchNorm)
    assert norm.num_features == 5


def test_project_of_a_cat_aims_at_the_size_and_keeps_the_width():
    # a concatenation asks of the shortcut to have the branch's size, not its width
    net = Skip(Conv(3, 5, 3, stride=2, padding=1), merge="cat", path="project", input=(3, 8, 8))
    assert only(net).path.weight.shape == (3, 3, 1, 1)
    assert net(torch.randn(2, 3, 8, 8)).shape == (2, 8, 4, 4)


def test_project_without_a_stride_that_fits_says_so():
    with pytest.raises(ShapeError, match=r"(?s)project finds no stride.*\(8, 8\) to \(6, 6\).*padding"):
        Skip(Conv(3, 3, 3), path="project", input=(3, 8, 8))


def test_project_from_another_layout_says_so():
    with pytest.raises(ShapeError, match=r"(?s)project cannot.*path="):
        Chain(Conv(3, 5, 3), nn.Flatten(), wiring=[Shortcut(0, 2, path="project")], input=(3, 8, 8))


def test_project_in_an_open_chain_waits():
    net = Chain(Dense(..., 5), Dense(5, 4), wiring=every(1, path="project"))
    with pytest.raises(OpenChainError, match=r"project needs the width at its start|waits for the width"):
        net.parameters().__next__()
    assert sum(p.numel() for p in net.build(3).parameters()) == (3 * 5 + 5) + (5 * 4 + 4) + 3 * 5 + 5 * 4


# -- pad ---------------------------------------------------------------------------------------------------------------


def test_pad_adds_zeros_at_the_end(x4):
    net = Skip(Dense(4, 6), path="pad")
    assert torch.equal(net(x4), net[0](x4) + torch.cat([x4, torch.zeros(3, 2)], -1))
    assert list(net.state_dict()) == ["0.weight", "0.bias"]


@pytest.mark.parametrize("size", [8, 9])
def test_pad_of_images_subsamples_and_adds_channels(size):
    net = Skip(Conv(3, 5, 3, stride=2, padding=1), path=Pad(), input=(3, size, size))
    x = torch.randn(2, 3, size, size)
    short = torch.cat([x[:, :, ::2, ::2], torch.zeros(2, 2, *x[:, :, ::2, ::2].shape[2:])], 1)
    assert torch.equal(net(x), net[0](x) + short)


def test_pad_only_widens():
    with pytest.raises(ShapeError, match="pad only widens"):
        Skip(Dense(4, 3), path="pad")


# -- modules and callables ---------------------------------------------------------------------------------------------


def test_any_module_or_callable_is_a_path(x4):
    net = Skip(Dense(4, 2), path=nn.Linear(4, 2, bias=False))
    assert torch.equal(net(x4), net[0](x4) + x4 @ only(net).path.weight.T)
    sliced = Skip(Dense(4, 2), path=lambda x: x[:, 1:3])
    assert torch.equal(sliced(x4), sliced[0](x4) + x4[:, 1:3])


def test_a_chain_is_a_path(x4):
    net = Skip(Dense(4, 2), path=Chain(Dense(4, 8, relu), Dense(8, 2)))
    assert torch.equal(net(x4), net[0](x4) + only(net).path(x4))
    assert len(list(net.parameters())) == 6


def test_an_open_path_is_closed_by_the_value_it_starts_at_or_refused_clearly():
    try:
        net = Skip(Dense(4, 5), path=Dense(..., 5))
    except (ChainError, OpenChainError) as error:
        assert "NoneType" not in str(error)  # noqa: PT017 - either answer is fine, torch's is not
        assert "width" in str(error)  # noqa: PT017
    else:
        assert only(net).path.weight.shape == (5, 4)


def test_a_path_that_brings_another_shape_is_not_told_to_project():
    with pytest.raises(ShapeError, match=r"\(N, 5\)") as caught:
        Skip(Dense(4, 4), path=nn.Linear(4, 5))
    # a path is given already: the fix is in that path
    assert 'add path="project"' not in str(caught.value)


def test_a_path_that_cannot_take_the_value_is_told_in_the_words_of_the_library():
    with pytest.raises(ShapeError, match=r"'input' \(N, 4\)") as caught:
        Skip(Dense(4, 4), path=nn.Linear(5, 4))
    assert "0x4" not in str(caught.value)


def test_a_path_of_ones_own_joins_in(x4):
    class Reversed(Path):
        def make(self, start, target):
            return lambda x: x.flip(-1)

    net = Skip(Dense(4, 4), path=Reversed())
    assert torch.equal(net(x4), net[0](x4) + x4.flip(-1))


def test_unknown_words_are_corrected():
    with pytest.raises(ChainError, match="no path 'projet': did you mean 'project'"):
        Shortcut(0, 1, path="projet")
    with pytest.raises(ChainError, match="path= takes a word"):
        Shortcut(0, 1, path=3)


@pytest.mark.parametrize("path", ["identity", "project", "pad", Project(always=True), nn.Linear(4, 6), torch.sin])
def test_gradients_agree_with_finite_differences(path):
    width = 4 if path in ("identity", torch.sin) else 6
    net = Skip(Dense(4, width, torch.tanh), path=path).double()
    assert torch.autograd.gradcheck(net, (torch.randn(3, 4, dtype=torch.float64, requires_grad=True),))


@pytest.mark.parametrize("path", ["project", "pad", Project(norm=BatchNorm)])
def test_gradients_of_image_paths_agree_with_finite_differences(path):
    net = Skip(Conv(2, 3, 3, torch.tanh, stride=2, padding=1), path=path, input=(2, 5, 5)).double().eval()
    assert torch.autograd.gradcheck(net, (torch.randn(2, 2, 5, 5, dtype=torch.float64, requires_grad=True),))


# -- the paper's nets --------------------------------------------------------------------------------------------------


def resnet20(path):
    def block(width_in, width, stride):
        return Skip(
            Conv(width_in, width, 3, stride=stride, padding=1, bias=False), BatchNorm(), relu,
            Conv(width, width, 3, padding=1, bias=False), BatchNorm(),
            path=path, act=relu,
        )  # fmt: skip

    widths = [(16, 16, 1)] * 3 + [(16, 32, 2)] + [(32, 32, 1)] * 2 + [(32, 64, 2)] + [(64, 64, 1)] * 2
    stem = [Conv(3, 16, 3, padding=1, bias=False), BatchNorm(), relu]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), Dense(64, 10)]
    return Chain(*stem, *[block(*w) for w in widths], *head, input=(3, 32, 32))


@pytest.mark.parametrize(
    ("path", "parameters"),
    [("pad", 269_722), (Project(norm=BatchNorm), 272_474), (Project(norm=BatchNorm, always=True), 283_962)],
    ids=["A", "B", "C"],
)
def test_resnet20_has_the_parameters_of_the_paper(path, parameters):
    net = resnet20(path)
    assert sum(p.numel() for p in net.parameters()) == parameters
    assert net(torch.randn(2, 3, 32, 32)).shape == (2, 10)


def test_option_a_costs_what_the_plain_net_costs():
    net = resnet20("pad")
    assert sum(p.numel() for p in net.plain().parameters()) == sum(p.numel() for p in net.parameters())
