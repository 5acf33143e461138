"""Stacked hourglasses: the recursion beside one written by hand, the stream between stacks, and a count by formula."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from skipway import Chain, ChainError
from skipway.zoo.hourglass import hourglass, one_hourglass, residual


def by_hand(glass, x):
    """An hourglass from its parts: what the full size makes of ``x``, and the half of it doubled."""
    pool, first, inner, last, _ = glass
    low = first(pool(x))
    low = last(by_hand(inner, low) if len(inner) == 5 else inner(low))
    return glass.shortcuts["input->output"].path(x) + F.interpolate(low, scale_factor=2, mode="nearest")


@pytest.mark.parametrize("order", [1, 2, 3])
def test_an_hourglass_is_the_one_written_by_hand(order):
    glass, x = one_hourglass(order, 8).build((8, 16, 8)).eval(), torch.randn(2, 8, 16, 8)
    with torch.no_grad():
        assert torch.allclose(glass(x), by_hand(glass, x), atol=1e-5)


def test_a_block_keeps_its_input_and_projects_it_only_where_the_width_changes():
    same, wider = residual(8, 8).build((8, 4, 4)), residual(8, 12).build((8, 4, 4))
    for p in [*same[8].parameters(), *wider[8].parameters()]:
        torch.nn.init.zeros_(p)
    x = torch.randn(2, 8, 4, 4)
    with torch.no_grad():
        assert torch.equal(same(x), x)
        assert torch.equal(wider(x), wider.shortcuts["input->output"].path(x))


def test_heat_maps_go_back_into_the_stream():
    net, x = hourglass(stacks=2, joints=5, width=8, order=2).eval(), torch.randn(1, 3, 64, 64)
    found = net.features(x, ["third", "stack1.line", "stack1.heat", "stack1", "stack2.heat"])
    stack = net["stack1"]
    line = stack.shortcuts["line->back"].path(found["stack1.line"])
    with torch.no_grad():
        expected = found["third"] + line + stack["back"](found["stack1.heat"])
        assert torch.allclose(found["stack1"], expected, atol=1e-5)
        assert torch.equal(net(x), found["stack2.heat"])
    assert found["stack1.heat"].shape == (1, 5, 16, 16)


def test_parameters_by_formula():
    def block(start, end):
        inner = end // 2
        norms = 2 * (start + 2 * inner)
        convolutions = (start + 1) * inner + (9 * inner + 1) * inner + (inner + 1) * end
        return norms + convolutions + ((start + 1) * end if start != end else 0)

    w, joints, order, stacks = 64, 16, 4, 3
    stem = (3 * 49 + 1) * (w // 4) + 2 * (w // 4) + block(w // 4, w // 2) + block(w // 2, w // 2) + block(w // 2, w)
    glass = (3 * order + 1) * block(w, w)
    heads = (w + 1) * w + 2 * w + (w + 1) * joints
    back = (w + 1) * w + (joints + 1) * w
    net = hourglass(stacks, joints, w, order)
    assert sum(p.numel() for p in net.parameters()) == stem + stacks * (glass + heads) + (stacks - 1) * back


def test_the_plain_twin_has_no_blocks_of_the_full_size():
    net = one_hourglass(2, 8).build((8, 8, 8))
    plain = net.plain()
    assert not any(m.wiring for m in plain.modules() if isinstance(m, Chain))
    # five blocks lie along the chain, and one is on each of the two shortcuts beside them
    assert len([m for m in plain.modules() if isinstance(m, Chain) and len(m) == 9]) == 5
    one = sum(p.numel() for p in residual(8, 8).build((8, 8, 8)).parameters())
    assert sum(p.numel() for p in net.parameters()) - sum(p.numel() for p in plain.parameters()) == 2 * one


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"stacks": 0}, "stacks= is a positive whole number"),
        ({"order": 1.5}, "order= is a positive whole number"),
        ({"width": 10}, "width= is a multiple of 4"),
    ],
)
def test_wrong_options(options, words):
    with pytest.raises(ChainError, match=words):
        hourglass(**options)
