"""Nets whose shortcuts fold away: the sum of the branches is one convolution, and the counts of both forms."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from skipway import ChainError, Parallel
from skipway.zoo.cost import count
from skipway.zoo.repvgg import MOBILEONE, REPVGG, mobileone, repvgg, unit


def folded(branches, kernel, groups):
    """The kernel and the bias that the branches of a unit add up to, by the formulas of 2101.03697, section 3.3."""
    weight, bias = 0.0, 0.0
    for branch in branches:
        norm = branch if isinstance(branch, nn.modules.batchnorm._BatchNorm) else branch[1]
        width = norm.num_features
        if norm is branch:
            own = torch.zeros(width, width // groups, kernel, kernel, dtype=norm.weight.dtype)
            for c in range(width):
                own[c, c % (width // groups), kernel // 2, kernel // 2] = 1
        else:
            edge = (kernel - branch[0].kernel_size[0]) // 2
            own = nn.functional.pad(branch[0].weight, [edge] * 4)
        factor = norm.weight / (norm.running_var + norm.eps).sqrt()
        weight = weight + own * factor[:, None, None, None]
        bias = bias + norm.bias - norm.running_mean * factor
    return weight, bias


def shaken(net):
    """The net with norms that have seen something."""
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return net.double().eval()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"width": 12},
        {"stride": 2},
        {"groups": 4},
        {"groups": 8, "side_by_side": 4},
        {"kernel": 1, "width": 6, "side_by_side": 2},
        {"kernel": 5, "groups": 2},
    ],
)
def test_a_unit_is_one_convolution(options):
    options = {"width": 8, **options}
    net, one = shaken(unit(8, **options)), unit(8, deployed=True, **options).double()
    weight, bias = folded(net[0].branches, options.get("kernel", 3), options.get("groups", 1))
    assert weight.shape == one.weight.shape
    one.weight.data, one.bias.data = weight, bias
    x = torch.randn(2, 8, 7, 7, dtype=torch.double)
    assert torch.allclose(net(x), one(x), atol=1e-12)
    assert net(x).shape == one(x).shape


@pytest.mark.parametrize(("make", "variant"), [(repvgg, "a0"), (mobileone, "s1")])
def test_a_trained_net_and_its_deployed_form_say_the_same(make, variant):
    torch.manual_seed(0)
    net, one = shaken(make(variant, num_classes=3)), make(variant, num_classes=3, deployed=True).double().eval()
    units = [m for m in net.modules() if isinstance(m, Parallel)]
    convolutions = [m for m in one.modules() if isinstance(m, nn.Conv2d)]
    for parts, conv in zip(units, convolutions, strict=True):
        conv.weight.data, conv.bias.data = folded(parts.branches, conv.kernel_size[0], conv.groups)
    one["head"].load_state_dict(net["head"].state_dict())
    x = torch.randn(1, 3, 40, 40, dtype=torch.double)
    with torch.no_grad():
        a, b = net(x), one(x)
    assert torch.allclose(a, b, rtol=1e-9, atol=1e-9 * a.abs().max())


def test_what_a_unit_is_made_of():
    def branches(*args, **options):
        return len(unit(*args, **options)[0].branches)

    assert (branches(8, 8), branches(8, 16), branches(8, 8, stride=2)) == (3, 2, 2)
    assert (branches(8, 8, kernel=1), branches(8, 16, kernel=1), branches(8, 8, side_by_side=4)) == (2, 1, 6)
    assert not any(isinstance(m, nn.ReLU) for m in unit(8, 8)[0].modules())
    assert str(unit(8, 8)[1]) == str(torch.relu)


def oracle(variant, deployed, groups=1):
    """Parameters of a RepVGG by hand."""
    counts, a, b = REPVGG[variant]
    start, widths = min(64, int(64 * a)), [int(64 * a), int(128 * a), int(256 * a), int(512 * b)]
    rows = [(3, start, 2, 1)]
    for width, n in zip(widths, counts, strict=True):
        for k in range(n):
            rows.append((start, width, 1 if k else 2, groups if len(rows) % 2 == 0 else 1))
            start = width
    total = start * 1000 + 1000
    for before, after, stride, split in rows:
        if deployed:
            total += 9 * before * after // split + after
        else:
            same = before == after and stride == 1
            total += 10 * before * after // split + 2 * after * (3 if same else 2)
    return total


@pytest.mark.parametrize(("name", "variant", "groups"), [("repvgg_a0", "a0", 1), ("repvgg_b1g4", "b1", 4)])
def test_by_hand(name, variant, groups, built):
    for options in ({}, {"deployed": True}):
        assert count(built(name, **options)).parameters == oracle(variant, bool(options), groups)


def test_every_second_convolution_is_in_groups(built):
    net = built("repvgg_b1g4", deployed=True)
    groups = [m.groups for m in net.modules() if isinstance(m, nn.Conv2d)]
    assert groups == [1] + [1, 4] * 13 + [1]


def test_variants_are_taken_as_the_paper_writes_them():
    assert repr(repvgg("A0", deployed=True)) == repr(repvgg("a0", deployed=True))


@pytest.mark.parametrize("variant", MOBILEONE)
def test_deployed_nets_are_plain(variant, built):
    net = built(f"mobileone_{variant}", deployed=True)
    assert not any(isinstance(m, (Parallel, nn.modules.batchnorm._BatchNorm)) for m in net.modules())
    assert sum(isinstance(m, nn.Conv2d) for m in net.modules()) == 1 + 2 * (2 + 8 + 10 + 1)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: repvgg("a3"), "table 2 has no repvgg 'a3': "),
        (lambda: repvgg("d2se"), "there is 'a0', 'a1', 'a2'"),
        (lambda: mobileone("s4"), "table 2 has no mobileone 's4'"),
        (lambda: repvgg("a0", groups=5), "groups= divides the width of every stage"),
        (lambda: repvgg("a0", groups=True), "groups= divides"),
    ],
)
def test_what_cannot_be(make, words):
    with pytest.raises(ChainError, match=words):
        make()
