"""The algebra of kernels against torch's own layers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from skipway import BatchNorm, Chain, Conv, Dense, Pad, deploy
from skipway.deploy.kernels import Affine, Inexact, Kernel, select, then, total
from skipway.deploy.layers import read, write
from skipway.value import Value

DOUBLE = (torch.float64, torch.device("cpu"))


def numbers(layer: nn.Module, rank: int = 3):
    found = read(layer, rank)
    assert found is not None
    return found


def norm(width: int, shift: bool = True) -> BatchNorm:
    made = BatchNorm(width).double().eval()
    made.running_var.uniform_(0.5, 2.0)
    with torch.no_grad():
        made.weight.uniform_(-1.0, 1.5)
        if shift:
            made.running_mean.normal_()
            made.bias.normal_()
    return made


def check(made, layers, x):
    """That a layer made of numbers computes what the layers do, one after the other."""
    expected = x
    for layer in layers:
        expected = layer(expected)
    assert torch.allclose(write(made, None, DOUBLE)(x), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("bias", [True, False])
def test_norm_after_a_convolution(dims, groups, bias):
    conv = Conv(4, 6, 3, stride=2, padding=1, groups=groups, dilation=2, bias=bias, dims=dims).double()
    after = norm(6)
    x = torch.randn(2, 4, *[9] * dims, dtype=torch.float64)
    check(then(numbers(conv), numbers(after, dims + 1)), [conv, after], x)


@pytest.mark.parametrize("groups", [1, 2])
def test_norm_after_a_transposed_convolution(groups):
    conv = nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=groups).double()
    after = norm(6)
    check(then(numbers(conv), numbers(after)), [conv, after], torch.randn(2, 4, 5, 5, dtype=torch.float64))


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("padding", "mode"), [(0, "zeros"), (1, "circular"), (1, "reflect"), (1, "replicate")])
def test_norm_before_a_convolution(groups, bias, padding, mode):
    conv = Conv(4, 6, 3, padding=padding, groups=groups, bias=bias, padding_mode=mode).double()
    before = norm(4)
    x = torch.randn(2, 4, 7, 7, dtype=torch.float64)
    check(then(numbers(before), numbers(conv)), [before, conv], x)


def test_norm_before_padding_with_zeros():
    conv = Conv(4, 6, 3, padding=1).double()
    with pytest.raises(Inexact, match="pads with zeros"):
        then(numbers(norm(4)), numbers(conv))
    unshifted = norm(4, shift=False)  # zeros stay zeros
    x = torch.randn(2, 4, 7, 7, dtype=torch.float64)
    check(then(numbers(unshifted), numbers(conv)), [unshifted, conv], x)


def test_norm_before_a_transposed_convolution():
    conv = nn.ConvTranspose2d(4, 6, 3, stride=2).double()
    with pytest.raises(Inexact, match="transposed"):
        then(numbers(norm(4)), numbers(conv))
    unshifted = norm(4, shift=False)
    x = torch.randn(2, 4, 5, 5, dtype=torch.float64)
    check(then(numbers(unshifted), numbers(conv)), [unshifted, conv], x)


def test_norm_on_another_axis_than_the_features():
    tokens = nn.BatchNorm1d(5).double().eval()  # over the 5 tokens of (N, 5, 4), not the 4 features
    tokens.running_mean.normal_()
    with pytest.raises(Inexact, match="another axis"):
        then(numbers(Dense(4, 4).double(), 2), numbers(tokens, 2))


@pytest.mark.parametrize(("k1", "k2"), [(1, 1), (3, 1), (1, 3)])
@pytest.mark.parametrize("stride", [1, 2])
def test_two_convolutions(k1, k2, stride):
    first = Conv(6, 6, k1, padding=k1 // 2, stride=stride if k2 == 1 else 1).double()
    second = Conv(6, 6, k2, stride=stride).double()
    x = torch.randn(2, 6, 9, 9, dtype=torch.float64)
    check(then(numbers(first), numbers(second)), [first, second], x)


def test_two_convolutions_and_what_pads_between_them():
    first, second = Conv(6, 6, 1).double(), Conv(6, 6, 3, padding=1).double()
    with pytest.raises(Inexact, match="pads with zeros"):
        then(numbers(first), numbers(second))
    nn.init.zeros_(first.bias)
    check(then(numbers(first), numbers(second)), [first, second], torch.randn(2, 6, 5, 5, dtype=torch.float64))


def test_a_bottleneck_is_not_multiplied_out():
    narrow, wide = Dense(32, 2), Dense(2, 32)
    with pytest.raises(Inexact, match=r"cost more \(1,024 weights for 128\)"):
        then(numbers(narrow), numbers(wide))
    made = then(numbers(wide.double()), numbers(narrow.double()))
    assert made.weight.shape == (2, 2)
    check(made, [wide, narrow], torch.randn(3, 2, dtype=torch.float64))


def test_larger_kernels_are_not_multiplied_out():
    with pytest.raises(Inexact, match="larger kernel"):
        then(numbers(Conv(2, 2, 3)), numbers(Conv(2, 2, 3)))
    with pytest.raises(Inexact, match="groups"):
        then(numbers(Conv(2, 2, 3, groups=2)), numbers(Conv(2, 2, 1)))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_sum_of_kernels(stride, dims):
    def conv(k, **options):
        return Conv(4, 4, k, stride=stride, padding=k // 2, dims=dims, **options).double()

    layers = [conv(5), conv(3, bias=False), conv(1)]
    if stride == 1:
        layers.append(norm(4))
    x = torch.randn(2, 4, *[7] * dims, dtype=torch.float64)
    made = total([numbers(layer, dims + 1) for layer in layers])
    assert torch.allclose(write(made, None, DOUBLE)(x), sum(layer(x) for layer in layers), rtol=1e-12, atol=1e-12)


def test_sum_of_grouped_kernels():
    depthwise, affine = Conv(6, 6, 3, padding=1, groups=6).double(), norm(6)
    x = torch.randn(2, 6, 5, 5, dtype=torch.float64)
    made = total([numbers(depthwise), numbers(affine), Affine.number(1.0)])
    assert made.groups == 6  # as cheap as it was
    assert torch.allclose(write(made, None, DOUBLE)(x), depthwise(x) + affine(x) + x, rtol=1e-12, atol=1e-12)
    two, three = Conv(6, 6, 3, padding=1, groups=2).double(), Conv(6, 6, 3, padding=1, groups=6).double()
    made = total([numbers(two), numbers(three)])
    assert made.groups == 2
    assert torch.allclose(write(made, None, DOUBLE)(x), two(x) + three(x), rtol=1e-12, atol=1e-12)


def test_sum_with_dilation():
    a, b = Conv(2, 2, 3, padding=2, dilation=2).double(), Conv(2, 2, 5, padding=4, dilation=2).double()
    c = Conv(2, 2, 1).double()
    x = torch.randn(1, 2, 11, 11, dtype=torch.float64)
    made = total([numbers(layer) for layer in (a, b, c)])
    assert made.dilation == (2, 2)
    assert torch.allclose(write(made, None, DOUBLE)(x), a(x) + b(x) + c(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("parts", "why"),
    [
        ((Conv(2, 2, 3, padding=1, stride=2), Conv(2, 2, 1)), "strides"),
        ((Conv(2, 2, 3, padding=1), Conv(2, 2, 5, padding=2, padding_mode="reflect")), "pad in different ways"),
        ((Conv(2, 2, 3, padding=1), Conv(2, 2, 3, padding=2, dilation=2)), "dilations"),
        ((Conv(2, 2, 3, padding=1), Conv(2, 2, 3)), "different sizes"),
        ((Conv(2, 4, 3, padding=1), Affine.number(1.0)), "keeps the width"),
        ((Conv(4, 4, 3, padding=1, groups=4), Conv(4, 4, 1)), "cost more"),
        ((nn.ConvTranspose2d(2, 2, 1), Conv(2, 2, 1)), "kinds"),
    ],
)
def test_sums_that_are_none(parts, why):
    with pytest.raises(Inexact, match=why):
        total([p if isinstance(p, Affine) else numbers(p) for p in parts])


def test_reflected_padding_reaches_as_far_as_it_must():
    a = Conv(2, 2, 3, padding=1, padding_mode="reflect").double()
    b = Conv(2, 2, 5, padding=2, padding_mode="reflect").double()
    x = torch.randn(1, 2, 6, 6, dtype=torch.float64)
    made = total([numbers(a), numbers(b), numbers(Conv(2, 2, 1).double())])
    assert made.mode == "reflect"
    made = total([numbers(a), numbers(b)])
    assert torch.allclose(write(made, None, DOUBLE)(x), a(x) + b(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("stride", [1, 2])
def test_option_a_is_a_kernel(stride):
    value, target = Value.of((3, 8, 8), "first"), Value.of((5, 8 // stride, 8 // stride), "first")
    pad = Pad().make(value, target)
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    check(read(pad, 3, 3), [pad], x)


def test_select():
    made = select(4, torch.tensor([2, 0, -1]))
    assert made.weight.tolist() == [[0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]]


def test_affine_maps():
    a, b = norm(3), norm(3)
    x = torch.randn(4, 3, 2, 2, dtype=torch.float64)
    check(then(numbers(a), numbers(b)), [a, b], x)
    made = write(total([numbers(a), numbers(b), Affine.number(2.0)]), None, DOUBLE)
    assert torch.allclose(made(x), a(x) + b(x) + 2 * x, rtol=1e-12, atol=1e-12)
    with pytest.raises(Inexact, match="axes"):
        then(numbers(a, 3), numbers(b, 1))
    with pytest.raises(Inexact, match="axes"):
        total([numbers(a, 3), numbers(b, 1)])


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("dims", [1, 2])
def test_padding_in_words(padding, dims):
    conv = Conv(2, 3, 3, padding=padding, dilation=2, dims=dims).double()
    check(numbers(conv), [conv], torch.randn(1, 2, *[8] * dims, dtype=torch.float64))


def test_padding_that_is_not_the_same_on_both_sides():
    assert read(nn.Conv2d(2, 3, 2, padding="same"), 3) is None


def test_what_is_not_read():
    class Own(nn.Linear):
        def forward(self, x):
            return super().forward(x) + 1

    hooked = nn.Linear(2, 2)
    hooked.register_forward_hook(lambda module, args, out: out + 1)
    batch = nn.BatchNorm1d(2, track_running_stats=False)
    assert [read(layer, 1) for layer in (Own(2, 2), hooked, batch, nn.LayerNorm(2), nn.ReLU())] == [None] * 5
    assert isinstance(read(nn.Linear(2, 2), 1), Kernel)


def test_without_learned_norms():
    plain = nn.BatchNorm2d(3, affine=False).double().eval()
    plain.running_mean.normal_()
    check(numbers(plain), [plain], torch.randn(2, 3, 4, 4, dtype=torch.float64))


def test_written_in_another_precision():
    made = write(Kernel(torch.eye(2, dtype=torch.float64)), torch.relu, (torch.float32, torch.device("cpu")))
    assert made.weight.dtype == torch.float32
    assert made.bias is None
    assert made(torch.tensor([[-1.0, 2.0]])).tolist() == [[0.0, 2.0]]


def test_one_number_that_shifts_everything():
    # there is no bias to take it in: one has to be made
    class Bias(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bias = nn.Parameter(torch.tensor(0.3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.bias

        def folded(self) -> nn.Module:
            made = deploy.PerChannel(1)
            nn.init.constant_(made.shift, self.bias.item())
            return made

    net = Chain(Conv(3, 4, 3, padding=1, bias=False), Bias(), input=(3, 8, 8)).eval()
    folded = deploy.fold(net)
    assert len(folded) == 1
    x = torch.randn(2, 3, 8, 8)
    assert torch.allclose(folded(x), net(x), atol=1e-6)
