import functools
import itertools
import re

import pytest
import torch
from torch import nn

from skipway import (
    BatchNorm,
    Chain,
    Conv,
    Dense,
    GlobalAvgPool,
    Learned,
    Parallel,
    Project,
    Shortcut,
    Skip,
    dense,
    every,
    log2,
    relu,
    sliding,
    tie,
    unet,
)
from skipway.render.text import columns

RAILS = "│┘┐┤─┼┴┬◄"
BLOCKS = {  # which of its sides a sign is open to
    "│": "ud",
    "┘": "ul",
    "┐": "dl",
    "┤": "udl",
    "─": "lr",
    "┼": "udlr",
    "┴": "ulr",
    "┬": "dlr",
}


def inner():
    """Branches in a branch, with shortcuts of their own."""
    deep = Parallel(Dense(4, 4), Chain(Dense(4, 4), Dense(4, 4)))
    return Parallel(Dense(4, 4, relu), Skip(Dense(4, 4), deep, scale=0.5), merge="mean")


NETS = {
    "one": lambda: Chain(Dense(4, 4)),
    "empty": lambda: Chain(),
    "crossing": lambda: Chain(
        stem=Dense(8, 16, relu),
        a=Dense(16, 16, relu),
        b=Dense(16, 16),
        c=Dense(16, 16),
        wiring=[
            Shortcut("stem", "b"),
            Shortcut("a", "c", merge="mean", act=torch.tanh),
            Shortcut("input", "c", path="project"),
        ],
    ),
    "unet": lambda: Chain(*[Dense(4, 4, relu) for _ in range(7)], wiring=unet(scale=0.5, path_scale=Learned(1.0))),
    "nested": lambda: Chain(
        stem=Dense(4, 4),
        b1=Skip(Dense(4, 4), Skip(Dense(4, 4), Dense(4, 4))),
        b2=Skip(Dense(4, 4), Dense(4, 4)),
        head=Dense(4, 2),
        wiring=[Shortcut("b1.0", "b2.1")],
    ),
    "folded": lambda: Chain(Dense(4, 4), *[Skip(Dense(4, 8), Dense(8, 4), act=relu) for _ in range(20)], Dense(4, 2)),
    "dense": lambda: Chain(*[Dense(4, 4) for _ in range(12)], wiring=dense()),
    "dense 100": lambda: Chain(*[Dense(4, 4) for _ in range(100)], wiring=dense()),
    "dense cat": lambda: Chain(*[Dense(..., 4) for _ in range(12)], input=4, wiring=dense(merge="cat")),
    "log2": lambda: Chain(*[Dense(4, 4) for _ in range(30)], wiring=log2()),
    "sliding": lambda: Chain(*[Dense(4, 4) for _ in range(9)], wiring=sliding(3)),
    "images": lambda: Chain(
        Conv(3, 8, 3, relu, padding=1),
        Skip(Conv(8, 16, 3, stride=2, padding=1), BatchNorm(), path=Project(norm=BatchNorm)),
        GlobalAvgPool(),
        Dense(16, 10),
        input=(3, 32, 32),
    ),
    "long": lambda: Chain(
        **{
            f"a_very_long_layer_name_number_{i}": Chain(
                **{f"another_long_name_{i}": Dense(1024, 1024, nn.LeakyReLU(0.25))}
            )
            for i in range(4)
        },
        wiring=[
            Shortcut(
                "a_very_long_layer_name_number_0",
                "a_very_long_layer_name_number_3",
                path=Project(always=True),
                scale=Learned(),
                drop=0.25,
                act=nn.LeakyReLU(0.25),
            )
        ],
    ),
    "open": lambda: Chain(
        lambda x: x + 1, Dense(..., 3), nn.Sequential(nn.Linear(3, 3), nn.ReLU()), wiring=[Shortcut(0, 1)]
    ),
    "parallel": lambda: Chain(Dense(4, 4), Parallel(Dense(4, 3), Skip(Dense(4, 4)), merge="cat"), Dense(..., 2)),
    "branches": lambda: Chain(
        Dense(4, 4),
        a=Skip(Dense(4, 4), both=inner(), after=Dense(4, 4)),
        b=Parallel(Chain(Dense(4, 4), inner(), wiring=every(1)), Dense(4, 4), inner()),
        wiring=[Shortcut(0, "b"), Shortcut("a.0", "b", merge="gate")],
    ),
    "tied": lambda: (lambda layer: Chain(layer, layer, layer, wiring=every(1)))(tie(Dense(4, 4))),
    "taps": lambda: Chain(
        a=Dense(4, 4),
        b=Dense(4, 4),
        c=Dense(4, 4),
        wiring=[Shortcut("input", "a"), Shortcut("a", "c", tap="branch"), Shortcut("input", "c", merge="gate")],
    ),
}


NETS = {name: functools.cache(make) for name, make in NETS.items()}  # only read here
TABLE = functools.cache(str)


@pytest.mark.parametrize("make", NETS.values(), ids=NETS.keys())
def test_a_table_fits_its_width_and_has_no_loose_ends(make):
    text = TABLE(make())
    lines = text.splitlines()
    assert max(map(len, lines)) <= 100
    assert all(line == line.rstrip() for line in lines)
    assert "\t" not in text


@pytest.mark.parametrize("make", NETS.values(), ids=NETS.keys())
def test_every_rail_goes_on_where_it_came_from(make):
    """What is open downwards on one row is open upwards on the next, in every column."""
    # the tree of branches in the first column is no rail
    lines = [re.sub(r"^(?:  |│ |├ |└ )+", lambda m: " " * len(m[0]), x) for x in TABLE(make()).splitlines()[1:]]
    rows = [line for line in lines if "⋮" not in line and not line.startswith("  open:")]
    start = min((line.index(c) for line in rows for c in RAILS if c in line), default=None)
    if start is None:
        return
    folded = any("⋮" in line for line in lines)
    for above, below in itertools.pairwise(rows):
        for column in range(start + 1, max(len(above), len(below))):
            a = above[column] if column < len(above) else " "
            b = below[column] if column < len(below) else " "
            if (a not in BLOCKS and a != " ") or (b not in BLOCKS and b != " "):
                break  # the notes begin
            if not folded:
                assert ("d" in BLOCKS.get(a, "")) == ("u" in BLOCKS.get(b, "")), f"{above}\n{below}"


@pytest.mark.parametrize("make", NETS.values(), ids=NETS.keys())
def test_the_head_counts_every_parameter_once(make):
    net = make()
    head = TABLE(net).splitlines()[0]
    if not net.is_open:
        assert f"{sum(p.numel() for p in net.parameters()):,} parameter" in head


def test_no_shortcut_goes_untold():
    net = NETS["crossing"]()
    text = str(net)
    for word in ("add", "mean", "then tanh", "project 8→16 (128)"):
        assert word in text


def test_long_names_do_not_cost_what_the_shortcut_does():
    text = str(NETS["long"]())
    for word in ("add", "project", "learned", "drop 0.25", "LeakyReLU"):
        assert word in text


def test_long_names_stay_apart():
    rows = [line.split()[0] for line in TABLE(NETS["long"]()).splitlines()[1:] if "Dense" in line or "Chain" in line]
    assert len(set(rows)) == len(rows) == 8


def test_several_equal_shortcuts_do_not_read_like_a_scale():
    net = Chain(Dense(4, 4), Dense(4, 4), wiring=[Shortcut(0, 2), Shortcut(1, 2)])
    scaled = Chain(Dense(4, 4), Dense(4, 4), wiring=[Shortcut(1, 2, scale=2.0)])
    assert "×2" in str(scaled)
    assert "×2" not in str(net)


def test_the_question():
    net = Chain(Dense(10, 5, relu), Dense(5, 4, relu), Dense(4, 2, relu), wiring=every(1, path="project"))
    lines = str(net).splitlines()
    assert lines[0] == "Chain  (N, 10) -> (N, 2)   167 parameters"
    assert [line.split()[0] for line in lines[1:]] == ["input", "0", "1", "2"]
    assert all("add · project" in line for line in lines[2:])


def test_repeated_blocks_are_folded():
    lines = str(NETS["folded"]()).splitlines()
    assert len(lines) < 15
    assert any("more times" in line for line in lines)


def test_folding_hides_no_difference():
    widths = Chain(*[Dense(4, 4) for _ in range(6)], Dense(4, 5), *[Dense(5, 5) for _ in range(6)])
    text = str(widths)
    assert "(N, 5)" in text
    odd = Chain(
        *[Skip(Dense(4, 4)) for _ in range(5)], Skip(Dense(4, 4), scale=0.5), *[Skip(Dense(4, 4)) for _ in range(5)]
    )
    assert "0.5" in str(odd)


def test_names_of_wide_signs_keep_the_columns():
    net = Chain({"入力層": Dense(4, 4), "слой": Dense(4, 4), "a": Skip(Dense(4, 4)), "🙂": Dense(4, 4)})
    lines = str(net).splitlines()[1:]
    assert {columns(line[: line.index("(N, 4)")]) for line in lines if "(N, 4)" in line} == {
        columns(lines[0][: lines[0].index("(N, 4)")])
    }
    assert {columns(line[: re.search("[─◄]", line).start()]) for line in lines if re.search("[─◄]", line)} == {33}


def test_branches_stand_between_their_title_and_where_they_meet():
    """Every branch once, its shortcuts beside it, and those around all of them past them."""
    branches = Parallel(Dense(4, 4), Skip(Dense(4, 4), Parallel(Dense(4, 4), Chain())), merge="mean")
    lines = str(Chain(stem=Dense(4, 4), mix=branches, wiring=[Shortcut(0, "mix")])).splitlines()[2:]
    assert [line[2:12].rstrip() for line in lines] == [
        "stem", "mix", "├ 0", "├ 1", "│   0", "│   1", "│   ├ 0", "│   ├ 1", "│   └ add", "└ mean",
    ]  # fmt: skip
    assert [line.split(")")[-1].lstrip(" 0123456789") for line in lines[-2:]] == ["◄│┘ add", "◄┘ add"]


@pytest.mark.parametrize("count", [4, 16])
def test_equal_branches_are_told_once(count):
    block = [Skip(Parallel(*[Skip(Dense(4, 4), relu) for _ in range(count)])) for _ in range(3)]
    lines = str(Chain(*block)).splitlines()
    assert sum("├" in line for line in lines) <= 2
    assert any(f"these 3 rows {count - 1} more times" in line for line in lines)
    assert len(lines) < 25


def test_printing_changes_nothing():
    net = Chain(Conv(3, 4, 3), BatchNorm(), nn.Dropout(0.5), input=(3, 8, 8))
    before = {k: v.clone() for k, v in net.state_dict().items()}
    state = torch.get_rng_state()
    str(net)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())
    assert net.training
