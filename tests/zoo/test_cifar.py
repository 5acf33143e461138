"""The residual nets of CIFAR: exact counts, and where norm and relu stand."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import nn

from skipway import ChainError, Skip
from skipway.zoo.cifar import cifar_resnet, preact_resnet, wide_resnet
from skipway.zoo.count import count


@functools.cache
def on_meta(make, *args, **options):
    with torch.device("meta"):
        return make(*args, **options)


COUNTS = {
    20: (269_722, 272_474, 283_962, 40_551_040),
    32: (464_154, 466_906, 489_594, 68_862_592),
    56: (853_018, 855_770, 900_858, 125_485_696),
    110: (1_727_962, 1_730_714, 1_826_202, 252_887_680),
}


@pytest.mark.parametrize("option", "ABC")
@pytest.mark.parametrize("depth", COUNTS)
def test_counts(depth, option):
    found = count(on_meta(cifar_resnet, depth, option))
    assert found.parameters == COUNTS[depth]["ABC".index(option)]
    assert found.depth == depth
    assert found.projections == {"A": 0, "B": 2, "C": (depth - 2) // 2}[option]
    if option == "A":
        assert found.macs == COUNTS[depth][3]


@pytest.mark.parametrize(
    ("options", "parameters"),
    [({"depth": 164}, 1_703_258), ({"depth": 164, "num_classes": 100}, 1_726_388), ({"depth": 110}, 1_727_962)],
)
def test_preactivation_counts(options, parameters):
    found = count(on_meta(preact_resnet, **options))
    assert (found.parameters, found.depth) == (parameters, options["depth"])


@pytest.mark.parametrize(
    ("args", "options", "parameters"),
    [((28, 10), {}, 36_479_194), ((28, 10), {"num_classes": 100}, 36_536_884), ((40, 1), {}, 563_930)],
)
def test_wide_counts(args, options, parameters):
    assert sum(p.numel() for p in on_meta(wide_resnet, *args, **options).parameters()) == parameters


def test_the_paper_counts_the_projections_of_a_wide_net_and_not_its_dense_layer():
    found = count(on_meta(wide_resnet, 28, 10))
    assert found.depth + found.projections - 1 == 28


def test_plain_twin_is_as_large_as_option_a():
    net = on_meta(cifar_resnet, 56)
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
