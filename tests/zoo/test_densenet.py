"""Dense nets: exact counts, and that every layer reads all that was made before it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from skipway import BatchNorm, Chain, ChainError
from skipway.zoo.cost import count
from skipway.zoo.densenet import BLOCKS, block, cifar_densenet, densenet


def oracle(layers, growth, stem, classes=1000):
    """Parameters and multiply-adds of a DenseNet-BC on 224 x 224 pixels, by hand."""
    width, side = stem, 112
    parameters, macs = 3 * 49 * stem + 2 * stem, side * side * 3 * 49 * stem
    side //= 2
    for i, many in enumerate(layers):
        for _ in range(many):
            weights = width * 4 * growth + 9 * 4 * growth * growth
            parameters += weights + 2 * width + 2 * 4 * growth
            macs += side * side * weights
            width += growth
        if i + 1 < len(layers):
            weights = width * (width // 2)
            parameters += weights + 2 * width
            macs += side * side * weights
            width, side = width // 2, side // 2
    return parameters + 2 * width + width * classes + classes, macs + width * classes


def test_by_hand():
    assert oracle(*BLOCKS[121]) == (7_978_856, 2_834_161_664)
    assert oracle(*BLOCKS[264]) == (33_337_704, 5_751_653_376)
    small = densenet((2, 3), growth=4, stem=8, num_classes=3)
    assert oracle((2, 3), 4, 8, classes=3) == (count(small).parameters, count(small).macs)


def test_as_many_connections_as_the_paper_says():
    # L(L + 1) / 2 of them; those from a layer to the next are the chain itself
    layers = 7
    shortcuts = block(layers, 4).wiring
    reading = [s for s in shortcuts if s.end != layers]
    assert len(reading) + layers == layers * (layers + 1) // 2
    assert len(shortcuts) == len(reading) + layers, "and what follows the block reads them all"


def test_equals_the_block_written_by_hand():
    net = block(3, 4, bottleneck=False).build((5, 6, 6)).eval()
    x = torch.randn(2, 5, 6, 6)
    made = [x]
    for part in net:
        made.append(part(torch.cat(made, 1)))  # in the order in which they were made, as in the paper
    expected = torch.cat(made, 1)
    assert torch.allclose(net(x), expected, atol=1e-6)
    assert net(x).shape == (2, 5 + 3 * 4, 6, 6)


def test_no_feature_is_there_twice():
    net = block(4, 3).build((5, 4, 4)).eval()
    out = net(torch.randn(1, 5, 4, 4))[0].flatten(1)
    assert torch.unique(out, dim=0).shape[0] == out.shape[0] == 5 + 4 * 3


def test_bottleneck_and_compression():
    net = cifar_densenet(16, 12, bottleneck=True)
    assert net["conv"].out_channels == 24
    assert net["block1"][0][2].out_channels == 48
    assert net["transition1"][2].out_channels == (24 + 2 * 12) // 2
    assert cifar_densenet(10, 12)["transition1"][2].out_channels == 16 + 2 * 12


def test_dropout_after_every_convolution_but_the_first():
    net = cifar_densenet(16, 4, bottleneck=True, dropout=0.2)
    convolutions = sum(isinstance(m, nn.Conv2d) for m in net.modules())
    assert sum(isinstance(m, nn.Dropout) for m in net.modules()) == convolutions - 1


def test_plain_twin_has_narrow_layers():
    plain = cifar_densenet(10, 4).plain()
    assert plain["block1"][1][0].num_features == 4
    assert not any(m.wiring for m in plain.modules() if isinstance(m, Chain))
    assert plain(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


def test_norms_take_the_width_that_arrives():
    norms = [m for m in densenet((2, 2), 4, 8, num_classes=3)["block1"].modules() if isinstance(m, BatchNorm)]
    assert [n.num_features for n in norms] == [8, 16, 12, 16]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"depth": 41}, r"3n \+ 4 without bottlenecks .*not 41: take 40 or 43"),
        ({"depth": 101, "bottleneck": True}, r"6n \+ 4 with bottlenecks .*take 100 or 106"),
        ({"depth": 4}, "take 7"),
        ({"compression": 0.0}, "theta"),
        ({"compression": 1.5}, "theta"),
    ],
)
def test_contradictions_are_told_in_the_papers_terms(options, words):
    with pytest.raises(ChainError, match=words):
        cifar_densenet(**options)
