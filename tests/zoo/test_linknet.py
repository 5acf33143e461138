"""LinkNet: the forward beside one written by hand, its sizes, and what crosses over."""

from __future__ import annotations

import pytest
import torch

from skipway import Chain, ChainError, ShapeError
from skipway.zoo.linknet import decoder, linknet


@pytest.fixture(scope="module")
def net():
    return linknet(num_classes=3, width=8).eval()


def test_it_is_the_one_written_by_hand(net):
    x = torch.randn(1, 3, 64, 96)
    h = net["relu"](net["norm"](net["conv"](x)))
    e0 = net["pool"](h)
    e1 = net["encoder1"](e0)
    e2 = net["encoder2"](e1)
    e3 = net["encoder3"](e2)
    e4 = net["encoder4"](e3)
    d4 = (net["decoder4"](e4) + e3).relu()
    d3 = (net["decoder3"](d4) + e2).relu()
    d2 = (net["decoder2"](d3) + e1).relu()
    d1 = (net["decoder1"](d2) + e0).relu()
    with torch.no_grad():
        assert torch.equal(net(x), net["head"](net["full"](d1)))


def test_decoders_undo_the_sizes_of_encoders(net):
    found = net.features(torch.zeros(1, 3, 64, 64), ["pool", "encoder1", "encoder2", "encoder3", "encoder4"])
    back = net.features(torch.zeros(1, 3, 64, 64), ["decoder1", "decoder2", "decoder3", "decoder4"])
    assert [tuple(v.shape[1:]) for v in found.values()] == [
        (8, 16, 16),
        (8, 16, 16),
        (16, 8, 8),
        (32, 4, 4),
        (64, 2, 2),
    ]
    for k in (1, 2, 3, 4):
        start = "pool" if k == 1 else f"encoder{k - 1}"
        assert back[f"decoder{k}"].shape == found[start].shape


def test_the_encoder_is_that_of_resnet18(built):
    with torch.device("meta"):
        stages = [net for name, net in linknet().named_children() if name.startswith("encoder")]
    theirs = [net for name, net in built("resnet18").named_children() if name.startswith("stage")]
    assert [list(s.state_dict()) for s in stages] == [list(s.state_dict()) for s in theirs]
    assert [[p.shape for p in s.parameters()] for s in stages] == [[p.shape for p in s.parameters()] for s in theirs]


def test_parameters_by_formula():
    def made(start, end):
        inner = start // 4
        return start * inner + 9 * inner * inner + inner * end + 4 * inner + 2 * end

    resnet18 = 11_689_512 - 513 * 1000  # without its dense layer
    decoders = made(512, 256) + made(256, 128) + made(128, 64) + made(64, 64)
    end = 9 * 64 * 32 + 64 + 9 * 32 * 32 + 64 + 4 * 32 * 19 + 19
    assert sum(p.numel() for p in linknet().parameters()) == resnet18 + decoders + end


def test_a_decoder_works_on_a_quarter():
    made = decoder(32, 16, 2)
    assert [m.weight.shape[:2] for m in made if getattr(m, "kernel_size", None)] == [(8, 32), (8, 8), (16, 8)]


def test_a_size_that_does_not_halve_is_told(net):
    with pytest.raises(ShapeError, match=r"shortcut 'encoder\d->decoder\d'"):
        net(torch.zeros(1, 3, 80, 80))


def test_the_plain_twin_has_as_many_parameters_but_for_projections(net):
    plain = net.plain()
    assert not any(m.wiring for m in plain.modules() if isinstance(m, Chain))
    projected = sum(p.numel() for name, p in net.named_parameters() if ".path." in name)
    assert sum(p.numel() for p in plain.parameters()) == sum(p.numel() for p in net.parameters()) - projected


@pytest.mark.parametrize("width", [0, 6, 8.0, True])
def test_wrong_width(width):
    with pytest.raises(ChainError, match="a decoder works on a quarter of the channels"):
        linknet(width=width)
