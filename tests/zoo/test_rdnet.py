"""RDNet: stages beside ones written by hand, how it begins, and a count by formula."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from skipway import ChainError, DropPath, ShapeError
from skipway.gains import undecayed
from skipway.zoo.rdnet import LayerScale, effective_squeeze, rdnet

SMALL = {"stem": 16, "growth": (8, 8, 16), "halving": (2,), "num_classes": 5}


@pytest.fixture(scope="module")
def net():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = rdnet(**SMALL)
        for p in made.parameters():
            nn.init.normal_(p, std=0.3)
    return made.eval()


def new_channels(layer, x, squeeze):
    parts = list(layer)
    y = F.conv2d(x, parts[0].weight, parts[0].bias, padding=3, groups=x.shape[1])
    y = F.layer_norm(y.permute(0, 2, 3, 1), (x.shape[1],), parts[1].weight, parts[1].bias, 1e-6).permute(0, 3, 1, 2)
    y = parts[3](F.gelu(F.conv2d(y, parts[2].weight, parts[2].bias)))
    if squeeze:
        dense = parts[4][1]
        said = y.mean((2, 3)) @ dense.weight[:, :, 0, 0].T + dense.bias
        y = y * (said / 6 + 0.5).clamp(0, 1)[:, :, None, None]
    return y * parts[-1].weight[:, None, None]


def test_stages_are_those_written_by_hand(net):
    x = torch.randn(2, 3, 40, 24)
    with torch.no_grad():
        for name, part in net.named_children():
            after = part(x)
            if name.startswith("stage"):
                values = [x]
                for layer in part:
                    values.append(new_channels(layer, torch.cat(values, 1), squeeze=name == "stage3"))
                assert torch.allclose(after, torch.cat(values, 1), atol=1e-4)
            x = after
        assert x.shape == (2, 5)


def test_squeeze_and_excitation_by_hand():
    made, x = effective_squeeze(6).build((6, 4, 4)), torch.randn(2, 6, 4, 4)
    nn.init.constant_(made[1].bias, 9.0)
    assert torch.equal(made(x), x)  # beyond 3 a weight is 1
    nn.init.constant_(made[1].bias, -9.0)
    assert not made(x).any()


def test_new_channels_begin_at_nothing():
    net, x = rdnet(**SMALL).eval(), torch.randn(1, 3, 32, 32)
    found = net.features(x, ["transition2", "stage2"])
    old, both = found["transition2"], found["stage2"]
    assert torch.equal(both[:, : old.shape[1]], old)
    assert 0 < both[:, old.shape[1] :].abs().max() < 1e-4


def test_sizes(net):
    sizes = {node.name: node.form.shape for node in net.plan.nodes}
    assert sizes["stem"] == (16, 56, 56)
    assert sizes["stage1"] == (16 + 24, 56, 56)
    assert sizes["transition2"] == (16, 56, 56)  # half of 40, rounded down to a multiple of 8
    assert sizes["transition3"] == (16, 28, 28)
    assert sizes["stage3"] == (16 + 48, 28, 28)


def test_parameters_by_formula():
    def layer(width, growth, squeeze):
        mixing = 50 * width + 2 * width + (width + 1) * 4 * width + (4 * width + 1) * growth
        return mixing + growth + (growth * growth + growth if squeeze else 0)

    total, width = 3 * 16 * 16 + 16 + 2 * 16, 16
    for i, (growth, kernel) in enumerate(((8, 1), (8, 1), (16, 4))):
        if i:
            narrow = width // 2 // 8 * 8
            total += 2 * width + (kernel * width + 1) * narrow
            width = narrow
        total += sum(layer(width + j * growth, growth, i >= 2) for j in range(3))
        width += 3 * growth
    total += 2 * width + (width + 1) * 5
    assert sum(p.numel() for p in rdnet(**SMALL).parameters()) == total


def test_drop_grows_linearly_with_depth():
    net = rdnet(**SMALL, drop=0.4)
    drops = [m.p for m in net.modules() if isinstance(m, DropPath)]
    assert drops == pytest.approx([0.05 * i for i in range(1, 9)])
    x = torch.randn(64, 3, 32, 32)
    with torch.no_grad():
        last = net.features(x, ["stage3"])["stage3"][:, -16:]
    dropped = (last == 0).flatten(1).all(1).float().mean().item()
    assert dropped == pytest.approx(0.4, abs=0.2)


def test_factors_are_not_decayed(net):
    names = [name for name, _ in undecayed(net)]
    assert len(names) == 9
    assert all(p.shape == (8,) or p.shape == (16,) for _, p in undecayed(net))
    assert isinstance(net["stage1"][0][-1], LayerScale)


def test_without_what_is_concatenated_no_width_is_right(net):
    with pytest.raises(ShapeError, match="channels"):
        net.plain()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"size": "micro"}, "size= is one of tiny, small, base, large"),
        ({"halving": (0, 1)}, "halving= names stages from 1 to 2"),
        ({"halving": (3,)}, "halving= names stages from 1 to 2"),
        ({"drop": 1.0}, "drop must be a probability"),
    ],
)
def test_wrong_options(options, words):
    with pytest.raises(ChainError, match=words):
        rdnet(**{**SMALL, **options})
