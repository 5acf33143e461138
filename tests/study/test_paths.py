import copy
import itertools
import json
import math
import random
import time
from collections import Counter
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from skipway import (
    BatchNorm,
    Chain,
    ChainError,
    Conv,
    DataError,
    Dense,
    OpenChainError,
    Parallel,
    Project,
    ShapeError,
    Shortcut,
    Skip,
    dense,
    every,
    from_input,
    log2,
    relu,
    sliding,
    unet,
    zoo,
)  # fmt: skip
from skipway.study import Paths, paths
from skipway.study.lengths import places, spread
from skipway.study.paths import _draw, _only
from skipway.study.walk import Walk


def by_hand(layers: int, ends: list[tuple[int, int]]) -> Counter[int]:
    """Every path walked one by one."""
    found: Counter[int] = Counter()

    def walk(at: int, length: int) -> None:
        if at == layers:
            found[length] += 1
            return
        walk(at + 1, length + 1)
        for start, end in ends:
            if start == at:
                walk(end, length)

    walk(0, 0)
    return found


@pytest.mark.parametrize(
    ("wiring", "total", "mean"),
    [
        (every(1), 4096, 6.0), (every(2), 64, 6.0), (sliding(2), 233, None), (dense(), 2048, 3.5), (unet(), 7, None),
        (log2(), 542, None), ([], 1, 12.0), (from_input(), 13, None), (every(1) + every(4), None, None),
        ([Shortcut("input", "output"), Shortcut(-3, -1)], 3, None),
    ],
    ids=str,
)  # fmt: skip
def test_paths_of_wirings_over_twelve_layers(wiring, total, mean):
    found = paths(wiring, layers=12)
    ends = [(s.start, s.end) for s in (wiring(12) if callable(wiring) else wiring)]
    ends = [({"input": 0}.get(a, a) % 13, {"output": 12}.get(b, b) % 13) for a, b in ends]
    assert dict(enumerate(found.counts)) == {k: by_hand(12, ends)[k] for k in range(13)}
    assert total in (None, found.total)
    assert mean in (None, found.mean)


@given(st.integers(1, 7), st.randoms(use_true_random=False))
@settings(max_examples=60)
def test_any_wiring_counts_as_by_hand(layers, draw):
    possible = list(itertools.combinations(range(layers + 1), 2))
    ends = draw.choices(possible, k=draw.randrange(2 * layers))  # twice the same is two paths
    found = paths([Shortcut(a, b, name=f"s{i}") for i, (a, b) in enumerate(ends)], layers=layers)
    assert found.counts == tuple(by_hand(layers, ends)[k] for k in range(layers + 1))


def test_fibonacci_and_powers_of_two_for_a_thousand_layers():
    a, b = 1, 1
    for _ in range(999):
        a, b = b, a + b
    assert paths(sliding(2), layers=1000).total == b
    assert paths(every(1), layers=1000).counts == tuple(math.comb(1000, k) for k in range(1001))
    assert paths(dense(), layers=1000).total == 2**999


@pytest.mark.parametrize("wiring", [every(1), sliding(2), sliding(7), unet(), log2(), dense()], ids=str)
def test_a_thousand_layers_take_less_than_a_second(wiring):
    began = time.process_time()
    found = paths(wiring, layers=1000)
    assert found.mean > 0
    assert found.median >= found.shortest
    assert time.process_time() - began < 2  # a second on a machine that is not busy


def test_the_blocks_of_110_layers_are_binomial():
    found = paths(zoo.cifar_resnet(110), unit="blocks")
    assert found.counts == tuple(math.comb(54, k) for k in range(55))
    assert found.share(19, 35) == pytest.approx(0.980, abs=5e-4)
    assert found.share(5, 17) == pytest.approx(0.00454, abs=5e-6)
    assert (found.mean, found.median, found.shortest, found.longest) == (27.0, 27, 0, 54)


def test_layers_are_those_with_weights_also_on_shortcuts():
    net = Chain(Dense(3, 4), Skip(BatchNorm(), relu, Dense(4, 4), Dense(4, 5), path="project"), Dense(5, 2))
    assert paths(net).counts == (0, 0, 0, 1, 1)  # 1 + 1 + 1 over the projection, 1 + 2 + 1 through the branch
    assert paths(net, unit="blocks").counts == (1, 1)
    long = Skip(Conv(2, 2, 1), path=Chain(Skip(Conv(2, 2, 1)), Conv(2, 2, 1)))
    assert paths(long).counts == (0, 2, 1)  # the branch 1; the path 1 or 2


def test_nesting_and_flat_wiring_count_the_same():
    def layers():
        return [Dense(4, 4) for _ in range(6)]

    nested = Chain(*[Skip(*pair) for pair in zip(*[iter(layers())] * 2, strict=True)])
    flat = Chain(*layers(), wiring=every(2))
    assert paths(nested).counts == paths(flat).counts == paths(every(2), layers=6).counts
    within = Chain(Dense(4, 4), nn.Sequential(nested, nn.Linear(4, 4)))
    assert paths(within).counts == (0, 0, *paths(nested).counts)
    deep = Chain(enc=Chain(a=Dense(4, 4), b=Dense(4, 4)), dec=Dense(4, 4), wiring=[Shortcut("enc.a", "dec")])
    assert paths(deep).counts == (0, 1, 0, 1)


def test_branches_side_by_side_are_paths_of_their_own():
    net = Chain(Parallel(Dense(3, 3), Chain(Dense(3, 3), Dense(3, 3)), nn.Identity()))
    assert paths(net).counts == (1, 1, 1)
    # the join of two, squared and one more: 1, 2, 5, 26 (1605.07648)
    column: nn.Module = Dense(2, 2)
    for expected in (2, 5, 26):
        twice = Chain(column, copy.deepcopy(column))
        column = Parallel(twice, Dense(2, 2), merge="mean")
        assert paths(Chain(column)).total == expected


def test_what_is_cut_by_a_zero_is_no_path():
    layers = [Dense(4, 4) for _ in range(4)]
    assert paths(Chain(*layers, wiring=every(1, path_scale=0.0))).counts == (0, 0, 0, 0, 1)
    assert paths(Chain(*[Dense(4, 4) for _ in range(4)], wiring=every(2, scale=0.0))).counts == (1,)


def test_a_tapped_branch_has_not_what_merged_after_it():
    layers = [Dense(4, 4) for _ in range(3)]
    wiring = [Shortcut(0, 1), Shortcut(1, 3, tap="branch")]
    # through all: 3 or 2 layers; from the branch of the first, before its merge: 1
    assert paths(Chain(*layers, wiring=wiring)).counts == (0, 1, 1, 1)
    assert paths(wiring, layers=3).counts == (0, 1, 1, 1)
    # every layer reads all that was made before it, and so does what follows: any of the layers, in order, are a path
    assert paths(dense(merge="cat"), layers=5).counts == tuple(math.comb(5, k) for k in range(6))


# -- the walk, and gradients along paths -------------------------------------------------------------------------------


def nets():
    return {
        "every": Chain(Dense(4, 4, relu), Dense(4, 4, relu), Dense(4, 4), wiring=every(1)),
        "crossing": Chain(
            Dense(4, 4, relu), Dense(4, 4, relu), Dense(4, 4, relu), Dense(4, 4),
            wiring=[Shortcut(0, 2), Shortcut(1, 3, path=Project(always=True)), Shortcut(2, 4, scale=0.5),
                    Shortcut(0, 4, path_scale=0.3), Shortcut(1, 4, tap="branch")],
        ),
        "nested": Chain(Dense(4, 4), Skip(Skip(Dense(4, 4, relu)), Dense(4, 4), act=relu), Dense(4, 4)),
        "norm": Chain(Skip(BatchNorm(4), relu, Dense(4, 4)), Skip(BatchNorm(4), relu, Dense(4, 4))),
    }  # fmt: skip


@pytest.mark.parametrize("name", nets())
def test_a_walk_computes_what_the_chain_computes(name):
    net = nets()[name]
    x = torch.randn(5, 4)
    torch.testing.assert_close(Walk(net)(x), net(x), rtol=0, atol=0)


@pytest.mark.parametrize("unit", ["layers", "blocks"])
@pytest.mark.parametrize("name", nets())
def test_gradients_along_all_paths_add_up_to_the_gradient(name, unit):
    """Of nets whose merges add: exactly, so that what one path carries is what it adds."""
    net = nets()[name].double()
    x = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    found = places(net)
    known = spread(found, unit)
    counts, draw = known.counts(), random.Random(0)
    total = torch.zeros_like(x)
    for length, count in enumerate(counts):
        ways: set = set()
        for _ in range(600):
            ways.add(tuple(sorted(_draw(found, known, unit, length, draw).items()))) if count else None
        assert len(ways) == count  # all of them, and no other
        for way in ways:
            output = Walk(net)(x, meet=_only(dict(way))).square().sum()
            total += torch.autograd.grad(output, x, allow_unused=True)[0]
    (whole,) = torch.autograd.grad(net(x).square().sum(), x)
    torch.testing.assert_close(total, whole, rtol=1e-9, atol=1e-11)


def test_paths_of_a_length_are_drawn_with_equal_chances():
    found = places(Chain(*[Dense(2, 2) for _ in range(5)], wiring=sliding(2)))
    known, draw = spread(found, "layers"), random.Random(1)
    seen = Counter(tuple(sorted(_draw(found, known, "layers", 3, draw).items())) for _ in range(4000))
    assert len(seen) == known.counts()[3] == 4
    assert all(abs(n - 1000) < 5 * math.sqrt(750) for n in seen.values())


def test_the_gradient_of_the_only_path_is_the_gradient():
    net = Chain(Dense(3, 4, relu), Dense(4, 2))
    x, y = torch.randn(6, 3, requires_grad=True), torch.tensor([0, 1, 0, 1, 1, 0])
    found = paths(net, (x.detach(), y), samples=1)
    (whole,) = torch.autograd.grad(nn.functional.cross_entropy(net(x), y), x)
    assert found.gradients == ((2, pytest.approx(float(whole.norm()), rel=1e-6)),)
    assert found.gradient_shares() == (0.0, 0.0, 1.0)
    assert found.gradient_mean == 2


def test_the_gradient_of_scaled_branches_comes_along_short_paths():
    torch.manual_seed(0)
    blocks = [layer for _ in range(12) for layer in (relu, Dense(8, 8))]
    net = Chain(*blocks, wiring=every(2, scale=12**-0.5))
    state = {k: v.clone() for k, v in net.state_dict().items()}
    x, y = torch.randn(20, 8), torch.arange(20) % 8
    found = paths(net, (x, y), unit="blocks", samples=4, seed=3)
    assert found.mean == 6
    assert found.gradient_mean < 4
    norms = dict(found.gradients)
    assert list(norms) == list(range(13))
    assert norms[0] > norms[6] > norms[12]
    assert sum(found.gradient_shares()) == pytest.approx(1)
    assert paths(net, (x, y), unit="blocks", samples=4, seed=3) == found
    assert all(torch.equal(v, state[k]) for k, v in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())


def test_a_result_prints_plots_and_is_plain_data(tmp_path: Path):
    net = Chain(*[Dense(4, 4, relu) for _ in range(6)], wiring=every(1))
    found = paths(net, (torch.randn(8, 4), torch.arange(8) % 4), samples=2)
    said = str(found)
    assert "64" in said
    assert "mean length by gradient" in said
    stored = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert stored["counts"] == [1, 6, 15, 20, 15, 6, 1]
    assert (stored["total"], stored["seed"], stored["samples"], stored["rows"]) == (64, 0, 2, 8)
    figure = found.plot(tmp_path / "paths.png")
    assert (tmp_path / "paths.png").read_bytes().startswith(b"\x89PNG")
    assert [bar.get_height() for bar in figure.axes[0].patches] == [n / 64 for n in stored["counts"]]
    long = paths(every(1), layers=1000)
    assert repr(long) == str(long)
    assert len(str(long)) < 4000
    with pytest.raises(AttributeError):
        found.counts = ()


def test_quantiles_and_shares_of_a_known_distribution():
    found = Paths((0, 1, 2, 1))
    assert [found.quantile(p) for p in (0, 0.25, 0.26, 0.75, 0.76, 1)] == [1, 1, 2, 2, 3, 3]
    assert found.share(-5, 99) == 1
    with pytest.raises(ChainError, match="share from 0 to 1"):
        found.quantile(1.5)
    with pytest.raises(ChainError, match="not measured"):
        found.gradient_shares()


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: paths(nn.Linear(2, 2)), ChainError, "not a Linear"),
        (lambda: paths(Chain(Dense(..., 2))), OpenChainError, "open"),
        (lambda: paths(every(1)), ChainError, "needs layers="),
        (lambda: paths(every(1), layers=0), ChainError, "needs layers="),
        (lambda: paths(Chain(Dense(2, 2)), layers=3), ChainError, "leave it out"),
        (lambda: paths([Shortcut(2, 9)], layers=3), ChainError, "2 -> 9"),
        (lambda: paths([Shortcut("stem", 2)], layers=3), ChainError, "'stem'"),
        (lambda: paths(every(1), layers=3, unit="block"), ChainError, "unit is"),
        (lambda: paths(every(1), (torch.ones(1, 2), torch.ones(1)), layers=3), ChainError, "give the chain"),
        (lambda: paths(Chain(Dense(2, 2)), torch.ones(3, 2)), DataError, "data="),
        (lambda: paths(Chain(Dense(2, 2)), (torch.ones(3, 2), torch.ones(2))), DataError, "3 rows"),
        (lambda: paths(Chain(Dense(2, 2)), (torch.ones(3, 5), torch.zeros(3).long())), ShapeError, "takes 2"),
        (lambda: paths(Chain(Dense(2, 2)), (torch.ones(3, 2), torch.zeros(3).long())), DataError, "one class"),
        (lambda: paths(Chain(Dense(2, 2)), (torch.full((3, 2), math.nan), torch.zeros(3).long())), DataError, "NaN"),
        (lambda: paths(Chain(Dense(2, 2)), (torch.ones(3, 2), torch.zeros(3).long()), samples=0), ChainError, "sampl"),
        (
            lambda: paths(Chain(nn.Sequential(Skip(Dense(2, 2)))), (torch.ones(3, 2), torch.arange(3) % 2)),
            ChainError, "leave data out",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_studied_is_told(call, error, match):
    with pytest.raises(error, match=match):
        call()
