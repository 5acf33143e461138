"""Feature pyramid: the levels beside ones written by hand, and a count by formula."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from skipway import ChainError, Pad, ShapeError
from skipway.zoo.fpn import fpn
from skipway.zoo.resnet import resnet

LEVELS = ["p5", "p4", "p3", "p2"]


@pytest.fixture(scope="module")
def net():
    return fpn(18, width=8).eval()


def test_levels_are_those_written_by_hand(net):
    x = torch.randn(1, 3, 64, 96)
    maps, value = [], x
    for name, layer in net["trunk"].named_children():
        value = layer(value)
        maps += [value] if name.startswith("stage") else []
    merged = net["m5"](maps[3])
    expected = [net["p5"](merged)]
    for level in (4, 3, 2):
        merged = net[f"m{level}"](maps[level - 2]) + F.interpolate(merged, scale_factor=2)
        expected.append(net[f"p{level}"](merged))
    found = net.features(x, LEVELS)
    with torch.no_grad():
        for level, value in zip(LEVELS, expected, strict=True):
            assert torch.allclose(found[level], value, atol=1e-4)
        assert torch.equal(net(x), found["p2"])
    assert [tuple(v.shape[2:]) for v in found.values()] == [(2, 3), (4, 6), (8, 12), (16, 24)]


def test_the_trunk_is_a_resnet_without_its_head(net):
    whole = resnet(18, 1)
    kept = {key: value.shape for key, value in whole.state_dict().items() if not key.startswith("head.")}
    assert {key: value.shape for key, value in net["trunk"].state_dict().items()} == kept
    net["trunk"].load_state_dict({key: value for key, value in whole.state_dict().items() if key in kept})


def test_parameters_by_formula():
    lateral = sum((channels + 1) * 8 for channels in (64, 128, 256, 512))
    smooth = 4 * (9 * 8 + 1) * 8
    trunk = 11_689_512 - 513 * 1000
    assert sum(p.numel() for p in fpn(18, width=8).parameters()) == trunk + lateral + smooth


def test_options_of_the_resnet():
    assert fpn(18, width=4, shortcut="A")["trunk"]["stage2"][0].wiring[0].path == Pad()
    with pytest.raises(ChainError, match="depth= is one of 18"):
        fpn(20)
    with pytest.raises(ChainError, match="width= is a positive whole number"):
        fpn(18, width=0)


def test_a_size_that_does_not_halve_is_told(net):
    with pytest.raises(ShapeError, match=r"shortcut 'm\d->m\d'"):
        net(torch.zeros(1, 3, 72, 72))


def test_the_plain_twin_stays_small(net):
    plain = net.plain()
    assert plain(torch.zeros(1, 3, 64, 64)).shape == (1, 8, 2, 2)
    assert not any(getattr(m, "wiring", ()) for m in plain.modules())
