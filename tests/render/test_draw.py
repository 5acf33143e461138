"""Drawings: what must hold of every one of them, whatever the chain."""

from __future__ import annotations

import functools
import itertools
import xml.etree.ElementTree as ET
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from skipway import (
    BatchNorm,
    Chain,
    Conv,
    Dense,
    GlobalAvgPool,
    Learned,
    MaxPool,
    Parallel,
    Project,
    Shortcut,
    Skip,
    dense,
    every,
    identity,
    log2,
    relu,
    sliding,
    unet,
    zoo,
)  # fmt: skip
from skipway.merges import Merge
from skipway.render.arcs import levels
from skipway.render.draw import planned, scene
from skipway.render.fold import view
from skipway.render.layout import joining, label, lay_out
from skipway.render.scene import flatten
from skipway.render.text import _Line
from skipway.render.unrolled import unroll


class Odd(Merge):
    """A merge that the drawings know nothing of."""

    def make(self, branch, shortcut):
        return lambda b, s: 2 * b - s


def inner():
    """Branches in a branch, with shortcuts of their own."""
    deep = Parallel(Dense(4, 4), Chain(Dense(4, 4), Dense(4, 4)))
    return Parallel(Dense(4, 4, relu), Skip(Dense(4, 4), deep, scale=0.5), merge="mean")


NETS = {
    "one": lambda: Chain(Dense(4, 4)),
    "empty": lambda: Chain(),
    "question": lambda: Chain(
        Dense(10, 5, relu), Dense(5, 4, relu), Dense(4, 2, relu), wiring=every(1, path="project")
    ),
    "crossing": lambda: Chain(
        stem=Dense(8, 16, relu), a=Dense(16, 16, relu), b=Dense(16, 16), c=Dense(16, 16),
        wiring=[
            Shortcut("stem", "b", name="first"), Shortcut("a", "c", merge="mean", act=torch.tanh),
            Shortcut("input", "c", path="project", path_scale=Learned(0.0), scale=0.5, drop=0.2),
        ],
    ),
    "narrow labels": lambda: Chain(
        *[Dense(4, 4) for _ in range(6)],
        wiring=[
            Shortcut(i, j, path=Project(always=True), path_scale=0.5) for i in range(3) for j in range(i + 1, i + 4)
        ],
    ),
    "unet": lambda: Chain(*[Dense(4, 4, relu) for _ in range(7)], wiring=unet(scale=0.5, path_scale=Learned(1.0))),
    "nested": lambda: Chain(
        stem=Dense(4, 4), b1=Skip(Dense(4, 4), Skip(Dense(4, 4), Dense(4, 4))), b2=Skip(Dense(4, 4), Dense(4, 4)),
        a_very_long_name_of_a_chain_around_one_layer=Skip(Dense(4, 4)), head=Dense(4, 2),
        wiring=[Shortcut("b1.0", "b2.1")],
    ),
    "folded": lambda: Chain(Dense(4, 4), *[Skip(Dense(4, 8), Dense(8, 4), act=relu) for _ in range(20)], Dense(4, 2)),
    "dense": lambda: Chain(*[Dense(4, 4) for _ in range(12)], wiring=dense()),
    "dense 100": lambda: Chain(*[Dense(4, 4) for _ in range(100)], wiring=dense()),
    "dense cat": lambda: Chain(*[Dense(..., 4) for _ in range(12)], input=4, wiring=dense(merge="cat")),
    "log2": lambda: Chain(*[Dense(4, 4) for _ in range(30)], wiring=log2()),
    "sliding": lambda: Chain(*[Dense(4, 4) for _ in range(150)], wiring=sliding(3)),
    "two grids": lambda: Chain(*[Dense(8, 8, relu) for _ in range(16)], wiring=every(1) + every(4)),
    "images": lambda: Chain(
        Conv(3, 8, 3, relu, padding=1),
        Skip(Conv(8, 16, 3, stride=2, padding=1), BatchNorm(), path=Project(norm=BatchNorm)),
        GlobalAvgPool(), Dense(16, 10), input=(3, 32, 32),
    ),
    "open": lambda: Chain(
        lambda x: x + 1, Dense(..., 3), nn.Sequential(nn.Linear(3, 3), nn.ReLU()), wiring=[Shortcut(0, 1)]
    ),
    "parallel": lambda: Chain(Dense(4, 4), Parallel(Dense(4, 3), Skip(Dense(4, 4)), merge="cat"), Dense(..., 2)),
    "inception": lambda: Chain(
        stem=Conv(3, 8, 3, relu, padding=1),
        mix=Parallel(
            Conv(8, 4, 1), Chain(reduce=Conv(8, 4, 1), body=Conv(4, 8, 3, padding=1)), Chain(MaxPool(3, 1, 1)), Chain(),
            merge="cat",
        ),
        head=Chain(GlobalAvgPool(), Dense(..., 10)), wiring=[Shortcut("stem", "mix", path="project", name="around")],
        input=(3, 8, 8),
    ),
    "nested branches": lambda: Chain(
        Dense(4, 4),
        a=Skip(Dense(4, 4), both=inner(), after=Dense(4, 4)),
        b=Parallel(Chain(Dense(4, 4), inner(), wiring=every(1)), identity, inner()), c=Dense(4, 4),
        wiring=[Shortcut(0, "c"), Shortcut("a.0", "b", merge="gate"), Shortcut("a", "c")],
    ),
    "split": lambda: Chain(
        Dense(4, 4),
        *[Skip(Parallel(*[Skip(Dense(4, 4), relu, Dense(4, 4)) for _ in range(32)]), act=relu) for _ in range(3)],
    ),
    "many branches": lambda: Chain(Dense(4, 4), Parallel(*[Dense(4, k + 1) for k in range(20)], merge="cat")),
    "taps": lambda: Chain(
        a=Dense(4, 4), b=Dense(4, 4), c=Dense(4, 4),
        wiring=[Shortcut("input", "a"), Shortcut("a", "c", tap="branch"), Shortcut("input", "c", merge="gate")],
    ),
    "unknown": lambda: Chain(
        Dense(4, 4), Dense(4, 4),
        wiring=[Shortcut(0, 1, merge=Odd()), Shortcut(0, 2, merge=lambda b, s: b - s, path=torch.sin)],
    ),
    "resnet18": lambda: zoo.make("resnet18"),
    "densenet": lambda: zoo.make("cifar_densenet40_12"),
}  # fmt: skip
NETS = {name: functools.cache(make) for name, make in NETS.items()}  # only read here


@functools.cache
def drawn(name, direction):
    return scene(NETS[name](), planned(NETS[name]()), direction=direction)


def boxes(made):
    return np.array([(t.box.x, t.box.y, t.box.right, t.box.bottom) for t in made.texts])


def points(line):
    """Points along a line, less than two pixels apart."""
    found = [np.array(flatten(line.steps)[:1])]
    for a, b in itertools.pairwise(flatten(line.steps, 48)):
        k = max(2, int(np.hypot(b[0] - a[0], b[1] - a[1]) / 1.5) + 1)
        found.append(np.linspace(a, b, k))
    return np.concatenate(found)


def holds(made, links):
    """What must hold of a drawing."""
    box = boxes(made)
    meet = (
        (box[:, None, 0] < box[None, :, 2] - 0.2) & (box[None, :, 0] < box[:, None, 2] - 0.2)
        & (box[:, None, 1] < box[None, :, 3] - 0.2) & (box[None, :, 1] < box[:, None, 3] - 0.2)
    )  # fmt: skip
    np.fill_diagonal(meet, False)
    assert not meet.any(), [(made.texts[i].string, made.texts[j].string) for i, j in np.argwhere(meet)[:3]]
    assert (box[:, :2] >= 0).all()
    assert (box[:, 2] <= made.width).all()
    assert (box[:, 3] <= made.height).all()

    arcs = made.arcs()
    assert sorted(arcs) == list(range(len(links)))
    for lines in arcs.values():
        assert sum(not line.kind.endswith("head") for line in lines) == 1
    lines = [line for found in arcs.values() for line in found if not line.kind.endswith("head")]
    for line in lines:
        hull = np.array([p for _, *at in line.steps for p in zip(at[::2], at[1::2], strict=True)])
        lo, hi = hull.min(0), hull.max(0)
        assert (lo >= 0).all()
        assert hi[0] <= made.width
        near = box[(box[:, 0] < hi[0]) & (box[:, 2] > lo[0]) & (box[:, 1] < hi[1]) & (box[:, 3] > lo[1])]
        at = points(line) if len(near) else hull
        for x0, y0, x1, y1 in near:
            crossed = (at[:, 0] > x0) & (at[:, 0] < x1) & (at[:, 1] > y0) & (at[:, 1] < y1)
            assert not crossed.any(), [t.string for t in made.texts if abs(t.box.x - x0) + abs(t.box.y - y0) < 1e-6]
    for s in made.signs:
        inside = (box[:, 0] < s.x + s.half) & (box[:, 2] > s.x - s.half) & (box[:, 1] < s.y + 6) & (box[:, 3] > s.y - 6)
        assert not inside.any(), [made.texts[i].string for i in np.flatnonzero(inside)]


@pytest.mark.parametrize("direction", ["horizontal", "vertical"])
@pytest.mark.parametrize("name", NETS)
def test_no_label_meets_another_or_an_arc(name, direction):
    net = NETS[name]()
    holds(drawn(name, direction), view(lay_out(planned(net))).all_links)


def branches(layout):
    """How many branches there are, those in branches too."""
    return sum(1 + branches(branch) for row in layout.rows for branch in row.branches)


def counts_all(layout, shown):
    """Every shortcut is drawn once or counted where it is not, and so is every branch."""
    told = [arc.edge for link in shown.all_links for arc in link.arcs]
    told += [arc.edge for cell in shown.all_cells for arc in cell.inside]
    assert sorted(map(id, told)) == sorted(id(arc.edge) for arc in layout.all_arcs())
    limbs = [limb for cell in shown.all_cells for limb in cell.limbs]
    assert sum(limb.total for limb in limbs) + sum(cell.hidden for cell in shown.all_cells) == branches(layout)
    for cell in shown.all_cells:
        firsts = [limb.first for limb in cell.limbs]
        if cell.kind == "fork":  # side by side in their order, none twice
            assert firsts == list(itertools.accumulate((limb.times for limb in cell.limbs), initial=0))[:-1]
            assert sum(limb.times for limb in cell.limbs) == len(cell.row.branches)
    for link in shown.all_links:
        assert link.start < link.end


@pytest.mark.parametrize("fold", [None, True, False])
@pytest.mark.parametrize("name", NETS)
def test_every_shortcut_and_every_branch_is_drawn_once(name, fold):
    layout = lay_out(planned(NETS[name]()))
    shown = view(layout, fold=fold)
    counts_all(layout, shown)
    if fold is False:
        assert all(len(link.arcs) == 1 for link in shown.all_links)
        assert all(limb.total == 1 for cell in shown.all_cells for limb in cell.limbs)
        assert len(in_order(shown)) == sum(line.is_value and line.role != "branch" for line in unroll(layout).lines)


def in_order(shown):
    """The cells as a list has them: those of branches before the value where they meet."""
    found = []
    for k, cell in enumerate(shown.cells):
        found += [pair for limb in cell.limbs if limb.view for pair in in_order(limb.view)[1:]]
        found.append((cell, shown.ends(k)))
    return found


@pytest.mark.parametrize("name", NETS)
def test_the_drawing_and_the_table_say_the_same(name):
    """One layout, two renderers: the cells of a row, the shortcuts that end there and what they do."""
    layout = lay_out(planned(NETS[name]()))
    found = unroll(layout)
    told = [(_Line(line, i, found, 0), line) for i, line in enumerate(found.lines)]
    values = [pair for pair in told if pair[1].is_value and pair[1].role != "branch"]
    for (cell, ends), (line, from_) in zip(in_order(view(layout, fold=False)), values, strict=True):
        if cell.kind == "fork":
            assert (line.title, from_.role) == (joining(cell.row.module), "meet")
        else:
            assert cell.title == line.title
            assert cell.what == line.what
            assert (f"{cell.count:,}" if cell.count else "") == line.count
        assert cell.shape == line.shape
        assert [link.edge for link in ends] == [arc.edge for arc in from_.ends]
        assert bool(ends) == (line.rails == "◄")
        for link in ends:
            assert str(link.words) == label(link.edge)
            assert str(link.words) in line.note


SAID = ("question", "crossing", "nested", "images", "inception", "nested branches", "taps", "unknown", "unet")


@pytest.mark.parametrize("name", SAID)
def test_every_word_of_a_label_is_written(name):
    """Merge, path, gains, drop and activation stand in the drawing where they act."""
    net = NETS[name]()
    for direction in ("horizontal", "vertical"):
        made = drawn(name, direction)
        written = " | ".join([*(t.string for t in made.texts), *(s.word for s in made.signs)])
        for link in view(lay_out(planned(net))).all_links:
            w = link.words
            for part in (w.merge, w.path, w.scale, w.path_scale, w.drop, w.act):
                assert part in written


WORDS = st.sampled_from(["add", "mean", "max", "mul", "gate"])
ONE = st.sampled_from(["add", "mean", "max", "mul"])


def limbs(forks):
    """Branches: layers, chains with shortcuts and branches of their own, or nothing."""
    layer = st.builds(lambda: Dense(4, 4))
    return st.one_of(layer, st.builds(Chain), chains(forks, 4), st.builds(lambda: Skip(Dense(4, 4), relu)))


@st.composite
def chains(draw, forks=2, most=14):
    """Chains of layers of one width, nested or not, with any shortcuts over them, and branches between them."""
    n = draw(st.integers(1, most))
    layers = {}
    for i in range(n):
        name = draw(st.sampled_from([f"{i}", f"layer{i}", f"a_much_longer_name_{i}"]))
        inner = draw(st.integers(0, 5))
        layers[name] = Skip(*[Dense(4, 4, relu) for _ in range(inner)]) if inner > 2 else Dense(4, 4)
        if forks and inner == 2:
            layers[name] = Parallel(*draw(st.lists(limbs(forks - 1), min_size=1, max_size=6)), merge=draw(ONE))
    ends = st.tuples(st.integers(0, n), st.integers(0, n)).filter(lambda e: e[0] < e[1])
    pairs = draw(st.lists(ends, max_size=10, unique=True))
    wiring = [
        Shortcut(
            a,
            b,
            merge=draw(WORDS),
            path=draw(st.sampled_from(["identity", Project(always=True)])),
            path_scale=draw(st.sampled_from([None, 0.5, Learned(0.0)])),
            scale=draw(st.sampled_from([None, 2.0])),
            act=draw(st.sampled_from([None, torch.tanh])),
            tap=draw(st.sampled_from(["state", "branch"])),
        )
        for a, b in pairs
    ]
    return Chain(layers, wiring=wiring)


@settings(max_examples=30)
@given(chains(), st.sampled_from(["horizontal", "vertical"]), st.sampled_from([None, True, False]))
def test_no_label_meets_another_or_an_arc_in_any_chain(net, direction, fold):
    plan = planned(net)
    layout = lay_out(plan)
    shown = view(layout, fold=fold)
    counts_all(layout, shown)
    made = scene(net, plan, direction=direction, fold=fold)
    holds(made, shown.all_links)
    ET.fromstring(net.draw(direction=direction, fold=fold))


SMALL = {"FOLD_FROM": 2, "JOIN_FROM": 2, "CLOSE_FROM": 4, "MOST": 7, "FEW": 4, "MOST_BRANCHES": 3}


@settings(max_examples=30)
@given(chains(), st.sampled_from(["horizontal", "vertical"]))
def test_what_is_folded_closed_or_left_out_is_counted_in_any_chain(net, direction):
    """The same, as if every chain were far too long: folds, joined norms, closed chains and a gap."""
    plan = planned(net)
    with mock.patch.multiple("skipway.render.fold", **SMALL):
        layout = lay_out(plan)
        shown = view(layout)
        made = scene(net, plan, direction=direction)
    assert len(in_order(shown)) <= SMALL["MOST"]
    counts_all(layout, shown)
    for part in shown.views():
        for band in part.bands:
            assert 0 < band.first <= band.last < len(part.cells)
    holds(made, shown.all_links)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)).filter(lambda e: e[0] < e[1]), max_size=9))
def test_arches_that_overlap_are_on_different_levels(spans):
    found = levels(spans)
    assert found is not None
    for (i, (a, b)), (j, (c, d)) in itertools.combinations(enumerate(spans), 2):
        if a < d and c < b:
            assert found[i] != found[j]
            if (a <= c and d <= b) and (a, b) != (c, d):
                assert found[i] > found[j]
