"""The residual nets of CIFAR: exact counts, and where norm and relu stand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from skipway import ChainError, Skip
from skipway.zoo.cifar import cifar_resnet, preact_resnet, wide_resnet
from skipway.zoo.cost import count


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


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: cifar_resnet(21), r"depth= is 6n \+ 2 .*not 21: take 20 or 26"),
        (lambda: cifar_resnet(2), "take 8"),
        (lambda: preact_resnet(165), r"9n \+ 2 .*3 convolutions.*take 164 or 173"),
        (lambda: preact_resnet(32, bottleneck=True), r"9n \+ 2 "),
        (lambda: wide_resnet(27), r"6n \+ 4 .*take 22 or 28"),
        (lambda: wide_resnet(28, 0), "the factor k"),
        (lambda: cifar_resnet(20, "F"), '"A", "B", "C" or "D"'),
        (lambda: preact_resnet(20, shortcut="C"), '"A" or "B"'),
    ],
)
def test_contradictions_are_told_in_the_papers_terms(make, words):
    with pytest.raises(ChainError, match=words):
        make()
