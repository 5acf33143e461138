"""The residual nets of ImageNet: exact counts, what the options do, and the plain twin."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from skipway import ChainError, SqueezeExcite
from skipway.zoo.cost import count
from skipway.zoo.resnet import bottleneck, resnet, resnet18, resnet_d


def test_the_papers_own_stride_costs_less_and_has_as_many_parameters(built):
    own, later = built("resnet50", stride_on="1x1"), built("resnet50")
    assert count(own).macs == 3_857_973_248
    assert count(own).parameters == count(later).parameters
    assert own["stage2"][0][0].stride == (2, 2)
    assert later["stage2"][0][3].stride == (2, 2)


def test_plain_34_is_as_large_as_option_a(built):
    with_a, plain = built("resnet34", shortcut="A"), built("resnet34").plain()
    assert count(plain).parameters == count(with_a).parameters
    assert count(plain).macs == count(with_a).macs
    assert count(plain).depth == 34
    assert not any(m.wiring for m in plain.modules() if hasattr(m, "wiring"))
    # the relu after each addition stays as a layer, so that the control has as many non-linearities
    assert plain.plan.nodes[-1].form.shape == (1000,)
    assert all("act_4" in block._modules for stage in list(plain)[4:8] for block in stage)


def test_option_c_adds_thirteen_projections(built):
    b, c = count(built("resnet34")), count(built("resnet34", shortcut="C"))
    assert (b.projections, c.projections - b.projections) == (3, 13)


def test_option_d_costs_no_parameters_beside_b(built):
    b, d = count(built("resnet50")), count(built("resnet50", shortcut="D"))
    assert (b.parameters, b.projections) == (d.parameters, d.projections)


@pytest.mark.parametrize("option", "ABCD")
def test_any_size_of_image(option):
    net = resnet18(num_classes=3, shortcut=option).eval()
    with torch.no_grad():
        for size in (32, 33, 47):
            assert net(torch.zeros(1, 3, size, size)).shape == (1, 3)


def test_every_pixel_of_an_odd_image_in_option_d():
    # without ceil_mode the mean over 2 x 2 would leave out the last row and the sizes would not meet
    block = bottleneck(8, 4, 16, 2, "D", "3x3")
    assert block.build((8, 7, 7))(torch.zeros(2, 8, 7, 7)).shape == (2, 16, 4, 4)


def test_zero_init_begins_as_the_shortcuts():
    net = resnet18(num_classes=3, zero_init=True).eval()
    x = torch.rand(2, 64, 8, 8)  # what comes from the pool is never negative, so relu leaves it as it is
    assert torch.equal(net["stage1"](x), x)


def test_he_init():
    net = resnet18()
    weight = net["stage3"][1][0].weight
    assert weight.std().item() == pytest.approx((2 / (256 * 9)) ** 0.5, rel=0.02)
    assert all((m.weight == 1).all() for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"depth": 20}, "depth= is one of 18, 34, 50, 101, 152"),
        ({"depth": 18, "stride_on": "1x1"}, "two 3x3 convolutions"),
        ({"depth": 34, "groups": 32, "width": 4}, "bottlenecks, from depth 50 on"),
        ({"depth": 50, "stride_on": "2x2"}, "the convolution that halves the image"),
        ({"depth": 18, "stem": "3x3"}, "three of 3x3"),
        ({"depth": 18, "shortcut": "E"}, 'shortcut= is "A", "B", "C" or "D"'),
    ],
)
def test_contradictions_are_told_in_the_papers_terms(options, words):
    with pytest.raises(ChainError, match=words):
        resnet(**options)


def test_resnet_d_differs_from_resnet_only_in_the_stem(built):
    plain, d = built("resnet50", shortcut="D"), built("resnet50_d")
    assert count(d).parameters - count(plain).parameters == 19_232
    kept = {key: p.shape for key, p in plain.state_dict().items() if not key.startswith("conv.")}
    assert {key: p.shape for key, p in d.state_dict().items() if not key.startswith("conv.")} == kept
    # no convolution of one pixel passes over every second pixel any more
    assert not [m for m in d.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1) and m.stride != (1, 1)]


def test_resnet_d_takes_any_depth_and_size():
    net = resnet_d(18, num_classes=3).eval()
    with torch.no_grad():
        assert net(torch.zeros(1, 3, 47, 33)).shape == (1, 3)
    assert net.plan.nodes[1].form.shape == (64, 112, 112)


def test_squeeze_and_excitation_weighs_the_channels_of_a_branch():
    block = bottleneck(16, 8, 32, 2, "B", "3x3", scale=SqueezeExcite(8)).build((16, 8, 8)).eval()
    x = torch.randn(2, 16, 8, 8)
    edge = block.shortcuts["input->output"]
    branch = x
    for layer in block:
        branch = layer(branch)
    weight = edge.scale.excite(edge.scale.squeeze(branch.mean((2, 3))).relu()).sigmoid()
    with torch.no_grad():
        assert torch.allclose(block(x), (branch * weight[:, :, None, None] + edge.path(x)).relu(), atol=1e-6)


def test_parameters_of_squeeze_and_excitation(built):
    inside = sum(n * (2 * c * c // 16 + c // 16 + c) for n, c in zip((3, 4, 6, 3), (256, 512, 1024, 2048), strict=True))
    assert count(built("se_resnet50")).parameters - count(built("resnet50")).parameters == inside
    assert count(built("se_resnet50")).depth == 50
