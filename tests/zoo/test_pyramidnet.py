"""PyramidNets: exact counts, the widths, and what stands on the shortcut."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from skipway import ChainError, relu
from skipway.zoo.cost import count
from skipway.zoo.pyramidnet import block, pyramidnet


def oracle(depth, alpha, bottleneck=False, classes=10, norms=True):
    """Parameters by hand."""
    units = 3 * ((depth - 2) // (9 if bottleneck else 6))
    total, start = 27 * 16 + norms * 2 * 16, 16
    for k in range(1, units + 1):
        width = round(16 + alpha * k / units)
        if bottleneck:
            total += start * width + 9 * width**2 + 4 * width**2 + norms * 2 * (start + 2 * width + 4 * width)
            start = 4 * width
        else:
            total += 9 * (start * width + width**2) + norms * 2 * (start + 2 * width)
            start = width
    return total + norms * 2 * start + start * classes + classes


def test_by_hand():
    assert oracle(110, 48) == 1_772_706
    assert oracle(110, 48, classes=100) == 1_778_556
    assert oracle(110, 270) == 28_485_477
    assert oracle(272, 200, bottleneck=True) == 26_210_842
    assert oracle(272, 200, bottleneck=True, norms=False) == 25_999_978
    assert oracle(20, 30) == count(pyramidnet(20, 30)).parameters
    assert oracle(29, 30, bottleneck=True) == count(pyramidnet(29, 30, bottleneck=True)).parameters


def test_nothing_that_can_be_left_out_gives_the_number_that_is_printed_for_270():
    # whatever is left out of the norms and the dense layer, the convolutions alone are more
    convolutions = oracle(110, 270, norms=False) - 286 * 10 - 10
    assert convolutions > 28.4e6


def test_every_block_is_wider_than_the_one_before():
    net = pyramidnet(20, 48)
    widths = [16] + [b.plan.output.shape[0] for k in (1, 2, 3) for b in net[f"stage{k}"]]
    assert widths == [16, 21, 27, 32, 37, 43, 48, 53, 59, 64]
    assert [net[f"stage{k}"].plan.output.shape[1:] for k in (1, 2, 3)] == [(32, 32), (16, 16), (8, 8)]


@pytest.mark.parametrize("bottleneck", [False, True])
def test_the_shortcut_takes_the_mean_and_adds_zeros(bottleneck):
    net = block(6, 8, 2, bottleneck).build((6, 7, 7))
    nn.init.zeros_(list(net)[-1].weight)  # the branch ends with a norm
    x = torch.randn(2, 6, 7, 7)
    mean = F.avg_pool2d(x, 2, ceil_mode=True)
    width = 32 if bottleneck else 8
    assert torch.allclose(net(x), F.pad(mean, (0, 0, 0, 0, 0, width - 6)), atol=1e-6)


def test_no_relu_before_the_first_convolution_and_a_norm_after_the_last():
    kinds = [type(layer).__name__ for layer in block(8, 8, 1, False)]
    assert kinds == ["BatchNorm", "Conv2d", "BatchNorm", kinds[3], "Conv2d", "BatchNorm"]
    assert list(block(8, 8, 1, False))[3] is relu


def test_the_shortcut_is_free():
    net = pyramidnet(20, 48)
    assert count(net) == count(net.plain())


def test_with_alpha_0_it_does_not_widen():
    net = pyramidnet(8, 0)
    assert net["head"].in_features == 16
    assert oracle(8, 0) == count(net).parameters


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: pyramidnet(111), r"pyramidnet: depth= is 6n \+ 2 .*not 111: take 110 or 116"),
        (lambda: pyramidnet(165), r"9n \+ 2 .*take 164 or 173"),
        (lambda: pyramidnet("110"), r"depth= is 6n \+ 2 .*not '110'"),
        (lambda: pyramidnet(20, -1), "alpha= is the widening factor"),
        (lambda: pyramidnet(20, "48"), "alpha= is the widening factor"),
    ],
)
def test_contradictions_are_told_in_the_papers_terms(make, words):
    with pytest.raises(ChainError, match=words):
        make()
