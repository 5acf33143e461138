"""U-Net: exact counts, what crosses over, and the paper's own convolutions without padding."""

from __future__ import annotations

import pytest
import torch

from skipway import Chain, ChainError, Conv, ShapeError, Shortcut
from skipway.zoo.cost import count
from skipway.zoo.encoder_decoder import Crop, unet


def test_the_papers_sizes():
    with torch.device("meta"):
        plan = unet(padding="valid").plan
    assert plan.nodes[0].form.shape == (1, 572, 572)
    assert plan.output.shape == (2, 388, 388)
    sizes = {node.name: node.form.shape for node in plan.nodes}
    assert sizes["mid"] == (1024, 28, 28)
    assert sizes["up4"] == (1024, 56, 56)
    assert sizes["up1"] == (128, 392, 392)


def test_parameters_do_not_depend_on_padding():
    same, valid = unet(width=4), unet(width=4, padding="valid")
    assert [p.shape for p in same.parameters()] == [p.shape for p in valid.parameters()]


def test_crop_takes_the_middle():
    net = Chain(
        a=Conv(1, 1, 1), b=Conv(1, 1, 3), wiring=[Shortcut("a", "b", merge="cat", path=Crop())], input=(1, 6, 7)
    )
    x = torch.randn(2, 1, 6, 7)
    assert torch.equal(net(x)[:, 1:], net["a"](x)[:, :, 1:-1, 1:-1])


def test_crop_only_takes_away():
    with pytest.raises(ShapeError, match="crop only takes away"):
        Chain(a=Conv(1, 1, 1), b=Conv(1, 1, 1, padding=1), wiring=[Shortcut("a", "b", path=Crop())], input=(1, 6, 6))


@pytest.mark.parametrize(("padding", "size", "out"), [("same", 16, 16), ("valid", 44, 4)])
def test_other_sizes_run_too(padding, size, out):
    net = unet(2, 3, width=2, depth=2, padding=padding)
    assert net(torch.zeros(1, 2, size, size)).shape == (1, 3, out, out)


def test_a_size_that_does_not_halve_is_told():
    with pytest.raises(ShapeError, match=r"down\d->up\d"):
        unet(width=2, depth=2)(torch.zeros(1, 1, 18, 18))


def test_add_halves_the_inputs_after_a_shortcut():
    cat, add = unet(width=4, depth=2), unet(width=4, depth=2, merge="add")
    assert cat["join1"][0].in_channels == 2 * add["join1"][0].in_channels
    assert count(cat).depth == count(add).depth


def test_the_way_down_arrives_beside_the_branch():
    net = unet(width=4, depth=1)
    found = net.features(torch.randn(1, 1, 8, 8), ["down1", "up1"])
    assert found["up1"].shape == (1, 8, 8, 8)
    assert torch.equal(found["up1"][:, 4:], found["down1"])
    assert not any(m.wiring for m in net.plain().modules() if isinstance(m, Chain))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"padding": "reflect"}, "the paper's own"),
        ({"merge": "mean"}, r'"cat" \(U-Net\) or "add"'),
        ({"depth": 0}, "depth= is a positive whole number"),
        ({"width": 2.5}, "width= is a positive whole number"),
    ],
)
def test_wrong_options(options, words):
    with pytest.raises(ChainError, match=words):
        unet(**options)
