"""The residual nets of CIFAR: exact counts, and where norm and relu stand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from skipway import BatchNorm, Chain, ChainError, Conv, Parallel, Skip, relu
from skipway.zoo.cifar import cifar_resnet, cifar_resnext, preact_resnet, wide_resnet
from skipway.zoo.cost import count
from skipway.zoo.resnet import bottleneck


def oracle(n, classes=10, norms=True):
    """Parameters of pre-activation bottlenecks, by hand: 9n + 2 layers on 64, 128 and 256 channels."""
    total, start = 3 * 16 * 9, 16
    for end in (64, 128, 256):
        inner = end // 4
        for k in range(n):
            width = end if k else start
            total += width * inner + 9 * inner * inner + inner * end + (0 if k else start * end)
            total += norms * 2 * (width + 2 * inner)
        start = end
    return total + norms * 2 * 256 + 256 * classes + classes


def test_preactivation_by_hand():
    assert oracle(18) == 1_703_258
    assert oracle(18, classes=100) == 1_726_388
    assert oracle(1) == count(preact_resnet(11, bottleneck=True)).parameters


def test_what_is_printed_for_depth_1001_leaves_out_the_norms():
    assert oracle(111) == 10_327_706
    assert oracle(111, norms=False) == 10_178_490


def test_the_paper_counts_the_projections_of_a_wide_net_and_not_its_dense_layer(built):
    found = count(built("wide_resnet28_10"))
    assert found.depth + found.projections - 1 == 28


def test_plain_twin_is_as_large_as_option_a():
    net = cifar_resnet(14)
    assert count(net.plain()) == count(net)


def test_nothing_stands_on_the_shortcut_of_preactivation():
    net = preact_resnet(20)
    block = net["stage2"][1]
    assert isinstance(block, Skip)
    for parameter in block.parameters():
        nn.init.zeros_(parameter)
    x = torch.randn(2, 32, 8, 8)
    assert torch.equal(block(x), x)


def test_branch_and_projection_share_the_preactivation():
    # kuangliu/pytorch-cifar#9: from the raw value it is another net
    block = wide_resnet(10, 1)["stage2"][0].eval()
    x = torch.randn(2, 16, 8, 8)
    shared = torch.relu(block["norm"](x))
    body = block["body"]
    branch = shared
    for layer in body:
        branch = layer(branch)
    assert torch.allclose(block(x), branch + body.shortcuts["input->output"].path(shared), atol=1e-6)


def test_the_first_block_shares_it_too_where_it_widens():
    assert not isinstance(wide_resnet(10, 2)["stage1"][0], Skip)
    assert isinstance(wide_resnet(10, 1)["stage1"][0], Skip)


def test_dropout_between_the_convolutions():
    body = wide_resnet(10, 2, dropout=0.3)["stage1"][0]["body"]
    assert [type(m).__name__ for m in body].index("Dropout") == 3
    assert not any(isinstance(m, nn.Dropout) for m in wide_resnet(10, 2).modules())


def whole(net, low=-3, high=4):
    """The net in double precision, with weights, norms and statistics that are whole numbers: sums are exact."""
    net.double().eval()
    for parameter in net.parameters():
        parameter.data = torch.randint(low, high, parameter.shape).double()
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eps = 0.0
            module.running_mean = torch.randint(low, high, module.running_mean.shape).double()
    return net


def test_a_convolution_in_groups_is_the_sum_of_narrow_branches():
    groups, width, inner, end = 4, 16, 8, 32  # figure 3 of 1611.05431: (c) equals (a)
    block = whole(bottleneck(width, inner, end, 2, "B", "3x3", groups))
    d = inner // groups

    def branch():
        return Chain(
            Conv(width, d, 1, bias=False), BatchNorm(d), relu,
            Conv(d, d, 3, stride=2, padding=1, bias=False), BatchNorm(d), relu,
            Conv(d, end, 1, bias=False),
        )  # fmt: skip

    branches = whole(Parallel(*[branch() for _ in range(groups)], merge="add"))
    for i, one in enumerate(branches.branches):
        part = slice(i * d, (i + 1) * d)
        for k, mine in enumerate(one):
            if k in (0, 3):
                mine.weight.data = block[k].weight.data[part]
            elif k in (1, 4):
                for name, value in block[k].state_dict().items():
                    mine.state_dict()[name].copy_(value[part] if value.dim() else value)
            elif k == 6:
                mine.weight.data = block[k].weight.data[:, part]
    split = Skip(Chain(branches, block[7]), path=block.shortcuts["input->output"].path, act=relu).eval()
    x = torch.randint(-3, 4, (2, width, 6, 6)).double()
    assert torch.equal(split(x), block(x))
    assert split(x).any()


def test_resnext_by_hand():
    def parameters(depth, groups, width):
        total, start = 3 * 64 * 9 + 2 * 64, 64
        for i in range(3):
            inner, end = groups * width << i, 256 << i
            for k in range((depth - 2) // 9):
                total += start * inner + 9 * inner**2 // groups + inner * end + 2 * (2 * inner + end)
                total += 0 if k else start * end + 2 * end
                start = end
        return total + start * 10 + 10

    assert parameters(29, 8, 64) == 34_426_698
    assert parameters(29, 32, 4) == 4_775_754
    assert parameters(11, 4, 8) == count(cifar_resnext(4, 8, depth=11)).parameters


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: cifar_resnet(21), r"depth= is 6n \+ 2 .*not 21: take 20 or 26"),
        (lambda: cifar_resnet(2), "take 8"),
        (lambda: preact_resnet(165), r"9n \+ 2 .*3 convolutions.*take 164 or 173"),
        (lambda: preact_resnet(32, bottleneck=True), r"9n \+ 2 "),
        (lambda: wide_resnet(27), r"6n \+ 4 .*take 22 or 28"),
        (lambda: wide_resnet(28, 0), "the factor k"),
        (lambda: cifar_resnext(8, 64, depth=28), r"9n \+ 2 .*3 convolutions.*not 28: take 20 or 29"),
        (lambda: cifar_resnext(0, 64), "cardinality= is C"),
        (lambda: cifar_resnext(8, 2.5), "width= is d"),
        (lambda: cifar_resnet(20, "F"), '"A", "B", "C" or "D"'),
        (lambda: preact_resnet(20, shortcut="C"), '"A" or "B"'),
    ],
)
def test_contradictions_are_told_in_the_papers_terms(make, words):
    with pytest.raises(ChainError, match=words):
        make()
