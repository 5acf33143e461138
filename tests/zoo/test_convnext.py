"""ConvNeXt: the block beside one written by hand, how it begins, and the drop that grows with depth."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from skipway import Chain, ChainError, Conv, OpenChainError, ShapeError
from skipway.zoo.convnext import ChannelNorm, block, convnext

SMALL = {"depths": (1, 1, 2, 1), "width": 8, "num_classes": 5}


def drawn(net):
    """The net with every parameter drawn at random: at its beginning scales hide the branches."""
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return net.eval()


def test_a_block_is_the_one_written_by_hand():
    net, x = drawn(block(6)), torch.randn(2, 6, 9, 7)
    deep, norm, wide, narrow = net
    gamma = net.shortcuts["input->output"].scale
    y = F.conv2d(x, deep.weight, deep.bias, padding=3, groups=6).permute(0, 2, 3, 1)
    y = F.layer_norm(y, (6,), norm.weight, norm.bias, 1e-6)
    y = F.gelu(y @ wide.weight[:, :, 0, 0].T + wide.bias) @ narrow.weight[:, :, 0, 0].T + narrow.bias
    assert torch.allclose(net(x), x + (y * gamma.flatten()).permute(0, 3, 1, 2), atol=1e-5)


def test_it_begins_as_its_stem_and_its_convolutions_between_the_stages():
    net, x = convnext(**SMALL).eval(), torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        for name, layer in net.named_children():
            after = layer(x)
            if name.startswith("stage"):
                assert not torch.equal(after, x)
                assert torch.allclose(after, x, atol=1e-5)
            x = after


def test_scales_are_one_number_a_channel():
    net = convnext(**SMALL, scale=0.5)
    scales = [p for name, p in net.named_parameters() if name.endswith("scale")]
    assert [p.numel() for p in scales] == [8, 16, 32, 32, 64]
    assert all((p == 0.5).all() for p in scales)


def test_drop_grows_linearly_with_depth():
    net = convnext(**SMALL, drop=0.4)
    drops = [b.wiring[0].drop for name, stage in net.named_children() if name.startswith("stage") for b in stage]
    assert drops == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])
    base = convnext("base", depths=(1, 1), width=8)
    assert base["stage2"][0].wiring[0].drop == 0.5


def test_weights_begin_as_in_the_paper():
    net = convnext(depths=(1, 1), width=32)
    assert net["stage2"][0][2].weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert not net["head"].bias.any()
    assert (net["norm"].weight == 1).all()


@pytest.mark.parametrize("shape", [(7,), (7, 5), (5, 4, 3)])
def test_channel_norm_is_layer_norm_with_the_channels_last(shape):
    norm, x = drawn(ChannelNorm(6)), torch.randn(2, 6, *shape)
    last = x.movedim(1, -1)
    expected = F.layer_norm(last, (6,), norm.weight, norm.bias, 1e-6).movedim(-1, 1)
    assert torch.equal(norm(x), expected)


def test_channel_norm_takes_the_width_that_arrives_and_leaves_the_layout():
    net = Chain(Conv(3, 6, 1), ChannelNorm(), Conv(..., 4, 1))
    assert net[1].weight.shape == (6,)
    assert net[2].in_channels == 6
    assert repr(net) == "Chain(Conv(3, 6, 1), ChannelNorm(), Conv(..., 4, 1))"
    assert repr(ChannelNorm(6, eps=1e-5)) == "ChannelNorm(6, eps=1e-05)"


def test_channel_norm_of_another_width_is_told():
    with pytest.raises(ShapeError, match="ChannelNorm"):
        Chain(Conv(3, 6, 1), ChannelNorm(5), input=(3, 8, 8))
    with pytest.raises(OpenChainError, match="still waits for the width"):
        ChannelNorm()(torch.zeros(1, 2, 3, 3))
    with pytest.raises(ChainError, match="ChannelNorm: the width must be"):
        ChannelNorm(0)


def test_wrong_options():
    with pytest.raises(ChainError, match=r"size= is one of tiny, small, base, large .* did you mean 'tiny'"):
        convnext("tinny")
    with pytest.raises(ChainError, match="drop must be a probability"):
        convnext(depths=(1, 1), drop=1.0)
