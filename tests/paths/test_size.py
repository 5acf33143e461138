"""Paths that change the size, take some features, or come one after the other."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from skipway import (
    AvgPool,
    BatchNorm,
    BlurPool,
    Chain,
    ChainError,
    Conv,
    Crop,
    Dense,
    Pad,
    Project,
    Resize,
    Shortcut,
    Skip,
    Slice,
    every,
    tie,
)

KEY = "input->output"


def brought(net: Skip, x: torch.Tensor) -> torch.Tensor:
    """What the shortcut brings: the branch is made zero."""
    for p in net[-1].parameters():
        nn.init.zeros_(p)
    return net.eval()(x)


@pytest.mark.parametrize("size", [(7,), (8, 8), (7, 9), (4, 6, 8)])
def test_the_mean_comes_before_the_projection(size):
    # option D, 1812.01187
    net = Skip(Conv(3, 5, 3, stride=2, padding=1, dims=len(size)), path=Project(down="mean"), input=(3, *size))
    x = torch.randn(2, 3, *size)
    pool, linear = net.shortcuts[KEY].path
    means = [F.avg_pool1d, F.avg_pool2d, F.avg_pool3d][len(size) - 1](x, 2, ceil_mode=True)
    assert isinstance(pool, AvgPool)
    assert torch.allclose(brought(net, x), linear(means))
    assert sum(p.numel() for p in net.shortcuts.parameters()) == 15, "as many as without the pool"


def test_option_d_has_as_many_parameters_as_option_b():
    def net(down):
        return Skip(Conv(4, 8, 3, stride=2, padding=1), path=Project(norm=BatchNorm, down=down))

    numbers = {sum(p.numel() for p in net(down).parameters()) for down in ("stride", "mean", "blur")}
    assert len(numbers) == 1


def test_blur():
    # 1904.11486: every second pixel of the blurred image, and of a constant image the constant
    kernel = torch.tensor([1.0, 2.0, 1.0]).outer(torch.tensor([1.0, 2.0, 1.0])) / 16
    x = torch.randn(2, 3, 7, 8)
    padded = F.pad(x, (1, 1, 1, 1), mode="reflect")
    expected = F.conv2d(padded, kernel.expand(3, 1, 3, 3), stride=2, groups=3)
    assert torch.allclose(BlurPool(2)(x), expected, atol=1e-6)
    assert torch.allclose(BlurPool(2)(torch.ones(1, 2, 9, 9)), torch.ones(1, 2, 5, 5))
    # a checkerboard of +1 and -1 aliases to a constant without the blur, and is gone with it
    board = (torch.arange(8)[:, None] + torch.arange(8)) % 2 * 2.0 - 1
    assert BlurPool(2)(board[None, None]).abs().max() < 1e-6
    assert repr(Chain(Conv(1, 1, 1), BlurPool(2))) == "Chain(Conv(1, 1, 1), BlurPool(2))"


def test_pad_after_a_pool():
    # 1610.02915
    net = Skip(Conv(3, 5, 3, stride=2, padding=1), path=Pad(down="mean"))
    x = torch.randn(2, 3, 8, 8)
    expected = F.pad(F.avg_pool2d(x, 2), (0, 0, 0, 0, 0, 2))
    assert torch.equal(brought(net, x), expected)
    assert not list(net.shortcuts.parameters())


def test_crop_takes_the_middle():
    net = Skip(Conv(3, 3, 3), path="crop", input=(3, 8, 8))
    x = torch.randn(1, 3, 8, 8)
    assert torch.equal(brought(net, x), x[:, :, 1:7, 1:7])


def test_crop_then_project():
    net = Skip(Conv(3, 5, 5), path=[Crop(), Project()], input=(3, 9, 9))
    x = torch.randn(1, 3, 9, 9)
    linear = net.shortcuts[KEY].path[1]
    assert torch.allclose(brought(net, x), linear(x[:, :, 2:7, 2:7]))


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("size", [(4,), (4, 4), (2, 4, 4)])
def test_resize_up(mode, size):
    dims = len(size)
    up = [nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d][dims - 1](3, 3, 2, stride=2)
    net = Skip(up, path=Resize(mode), input=(3, *size))
    x = torch.randn(2, 3, *size)
    word = mode if mode == "nearest" else ("linear", "bilinear", "trilinear")[dims - 1]
    assert torch.allclose(brought(net, x), F.interpolate(x, scale_factor=2, mode=word))


def test_resize_down_at_every_size():
    net = Skip(Conv(3, 3, 3, stride=2, padding=1), path="resize")
    for side in (8, 12):
        assert net(torch.randn(1, 3, side, side)).shape == (1, 3, side // 2, side // 2)


def test_slices():
    net = Skip(Dense(6, 3), path=Slice(2, 5))
    x = torch.randn(4, 6)
    assert torch.equal(brought(net, x), x[:, 2:5])
    tail = Skip(Conv(6, 2, 1), path=Slice(4))
    image = torch.randn(1, 6, 3, 3)
    assert torch.equal(brought(tail, image), image[:, 4:])


def test_a_tap_of_some_channels():
    net = Chain(
        stem=Conv(3, 8, 3, padding=1), a=Conv(8, 8, 3, padding=1), b=Conv(8, 6, 3, padding=1),
        wiring=[Shortcut("stem", "b", path=[Slice(0, 4), Project()])],
    )  # fmt: skip
    x = torch.randn(1, 3, 5, 5)
    seen = net.features(x, at=["stem", "a"])
    linear = net.shortcuts["stem->b"].path[1]
    assert torch.allclose(net(x), net["b"](seen["a"]) + linear(seen["stem"][:, :4]), atol=1e-5)


def test_a_route_prints_and_compares():
    shortcut = Shortcut(0, 1, path=[Slice(0, 4), "project", nn.Identity()])
    assert repr(shortcut) == "Shortcut(0, 1, path=[Slice(stop=4), 'project', nn.Identity()])"
    assert Shortcut(0, 1, path=["crop", "project"]) == Shortcut(0, 1, path=("crop", "project"))
    assert hash(Shortcut(0, 1, path=["crop"])) == hash(Shortcut(0, 1, path=["crop"]))
    assert eval(repr(every(2, path=["crop", "project"]))) == every(2, path=["crop", "project"])


def test_what_a_route_holds_is_trained_and_not_shared():
    net = Skip(Dense(4, 3), path=[Dense(..., 5), nn.Tanh(), Dense(..., 3)])
    assert sum(p.numel() for p in net.shortcuts.parameters()) == 4 * 5 + 5 + 5 * 3 + 3
    layer = Dense(4, 4)
    with pytest.raises(ChainError, match="same Dense object"):
        Chain(layer, Dense(4, 4), wiring=[Shortcut(1, 2, path=[nn.Tanh(), layer])])
    with pytest.raises(ChainError, match="share the weights of one Dense among"):
        Chain(Dense(4, 4), Dense(4, 4), wiring=every(1, path=[nn.Tanh(), layer]))
    shared = Chain(Dense(4, 4), Dense(4, 4), wiring=every(1, path=[nn.Tanh(), tie(layer)]))
    assert shared(torch.zeros(1, 4)).shape == (1, 4)


def test_detach_stops_the_gradient_along_the_shortcut():
    x = torch.randn(3, 4, requires_grad=True)
    net = Skip(Dense(4, 4), path="detach")
    net(x).sum().backward()
    through = x.grad.clone()
    x.grad = None
    net[0](x).sum().backward()
    assert torch.equal(through, x.grad)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Project(down="max"), 'down is "stride", "mean" or "blur", not \'max\''),
        (lambda: Pad(down="avg"), "not 'avg'"),
        (lambda: Resize("cubic"), "not 'cubic'"),
        (lambda: Slice(3, 2), "0 <= start < stop, not 3, 2"),
        (lambda: Slice(-1), "not -1"),
        (lambda: Skip(Dense(4, 4), path=Slice(0, 5)), "takes features 0 to 5, and the value has 4"),
        (lambda: Skip(Dense(4, 4), path=[]), "path=\\[\\] has no steps"),
        (lambda: Skip(Dense(4, 4), path=["prject"]), "there is no path 'prject': did you mean 'project'"),
        (lambda: Skip(Conv(3, 3, 3, padding=2), path="crop", input=(3, 8, 8)), "crop only takes away"),
        (lambda: Skip(Dense(4, 5), path="crop", input=4), "crop takes images"),
        (lambda: Skip(Dense(4, 5), path="resize", input=4), "resize takes images"),
        (
            lambda: Skip(Conv(3, 4, 3, stride=(2, 1), padding=1), path=Project(down="mean"), input=(3, 8, 8)),
            r"smaller alike, and here by \(2, 1\)",
        ),
        (lambda: BlurPool(0), "positive whole number, not 0"),
    ],
)
def test_bad_input_says_what_is_right(make, said):
    with pytest.raises(ChainError, match=said):
        make()


def test_the_fix_that_the_error_prints_works():
    def around(**options) -> Skip:
        return Skip(Conv(4, 6, 3), input=(4, 9, 9), **options)

    with pytest.raises(ChainError, match='or say path="crop"'):
        around()
    with pytest.raises(ChainError, match=r'write path=\["crop", "project"\]'):
        around(path="crop")
    assert around(path=["crop", "project"]).plan.output.shape == (6, 7, 7)
