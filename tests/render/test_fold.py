"""What of a chain is drawn: repeats, closed chains, a long middle."""

from __future__ import annotations

import pytest

from skipway import Chain, Dense, Shortcut, Skip, every, relu, sliding, zoo
from skipway.render.draw import planned
from skipway.render.fold import view
from skipway.render.layout import lay_out
from skipway.render.repeats import Tree


def test_a_long_chain_is_drawn_as_its_block():
    net = Chain(*[Dense(8, 8, relu) for _ in range(1000)], wiring=every(2))
    shown = view(lay_out(planned(net)))
    assert [cell.title for cell in shown.cells] == ["input", "0", "1"]
    assert [(band.first, band.last, band.times, band.until) for band in shown.bands] == [(1, 2, 500, "999")]
    assert [len(link.arcs) for link in shown.links] == [500]
    text = net.draw()
    assert "×500" in text
    assert len(text) < 20_000


def test_what_cannot_be_folded_leaves_out_its_middle_and_says_so():
    shown = view(lay_out(planned(Chain(*[Dense(4, 4) for _ in range(150)], wiring=sliding(3)))))
    gap = next(cell for cell in shown.cells if cell.kind == "gap")
    assert gap.what == "127 × Dense"
    assert gap.count == 127 * 20
    assert len(shown.cells) == 25
    assert gap.inside


def test_no_fold_hides_a_shortcut_into_its_middle():
    """Two equal blocks, but a shortcut comes out of the third: it is drawn, and not behind another."""
    blocks = {f"b{i}": Chain(Dense(4, 4), Dense(4, 4), relu) for i in range(30)}
    net = Chain(**blocks, wiring=[Shortcut("b2.0", "b20.1")])
    shown = view(lay_out(planned(net)), fold=True)
    (link,) = shown.links
    assert shown.cells[link.start].row.node.name == "b2.0"
    assert shown.cells[link.end].row.node.name == "b20.1"
    assert [b.times for b in shown.bands if b.times > 1] == [17, 9]


def test_equal_blocks_are_equal_in_all_that_is_drawn():
    layers = [Skip(Dense(4, 4), Dense(4, 4)) for _ in range(9)]
    layers[4] = Skip(Dense(4, 4), Dense(4, 4), scale=0.5)
    shown = view(lay_out(planned(Chain(*layers))), fold=True)
    assert [band.times for band in shown.bands] == [4, 1, 4]


def test_blocks_that_differ_in_what_leaves_them_are_not_one():
    net = Chain(*[Dense(4, 4) for _ in range(40)], wiring=[Shortcut(0, 40), Shortcut(20, 30)])
    shown = view(lay_out(planned(net)))
    assert [(b.times, b.since, b.until) for b in shown.bands] == [(20, "0", "19"), (9, "20", "28"), (9, "30", "38")]


def test_norms_and_activations_go_with_their_layer():
    shown = view(lay_out(planned(zoo.make("resnet18"))))
    assert len(shown.cells) < 24
    assert shown.cells[1].what == "Conv 7x7/2 · BatchNorm · relu"
    assert sum(cell.count for cell in shown.cells) < 11_689_512
    whole = view(lay_out(planned(zoo.make("resnet18"))), fold=False)
    held = sum(len(link.arcs) * link.held for link in whole.links)
    assert sum(cell.count for cell in whole.cells) + held == 11_689_512


@pytest.mark.parametrize("name", ["densenet121", pytest.param("preact_resnet1001", marks=pytest.mark.slow)])
def test_the_deepest_nets_stay_readable(name):
    assert len(view(lay_out(planned(zoo.make(name)))).cells) <= 112


def test_what_reaches_over_blocks_is_no_fold():
    tree = Tree(lay_out(planned(Chain(*[Dense(4, 4) for _ in range(400)], wiring=sliding(2)))))
    assert tree.folds == []
