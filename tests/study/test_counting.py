"""Paths of a wiring in matrices: the same whole numbers as one big integer for each value gives."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skipway import ChainError, Shortcut, cross, dense, every, from_input, log2, random_shortcuts, sliding
from skipway.study import counting, paths
from skipway.study.counting import Reads, counts, of_wiring
from skipway.study.lengths import ends_of, places_of, spread


def by_matrices(wiring, layers, unit="layers"):
    return counts(Reads.of(layers, ends_of(wiring, layers), int(unit == "layers"), int(unit == "blocks")))


def by_integers(wiring, layers, unit="layers"):
    return spread(places_of(ends_of(wiring, layers), layers), unit).counts()


@st.composite
def wirings(draw):
    layers = draw(st.integers(1, 12))
    ends = st.tuples(st.integers(0, layers - 1), st.integers(1, layers)).filter(lambda ends: ends[0] < ends[1])
    taps = st.sampled_from(["state", "branch"])
    rows = draw(st.lists(st.tuples(ends, taps), max_size=30))  # the same ends may come again
    return layers, [Shortcut(*ends, tap=tap) for ends, tap in rows]


@pytest.mark.parametrize("block", [1, 3, 64])
@pytest.mark.parametrize("unit", ["layers", "blocks"])
@given(wirings())
def test_both_ways_count_the_same(monkeypatch, block, unit, wired):
    layers, wiring = wired
    monkeypatch.setattr(counting, "_BLOCK", block)
    assert by_matrices(wiring, layers, unit) == by_integers(wiring, layers, unit)


@pytest.mark.parametrize("unit", ["layers", "blocks"])
@pytest.mark.parametrize(
    "wiring",
    [
        every(1), sliding(3), log2(), dense(), dense(merge="cat"), cross(), from_input(), random_shortcuts(0.5),
        random_shortcuts(0.3, merge="cat") + dense() + every(2), [Shortcut(0, 150)] * 3000,
    ],
    ids=str,
)  # fmt: skip
def test_numbers_of_many_limbs(wiring, unit):
    assert by_matrices(wiring, 150, unit) == by_integers(wiring, 150, unit)


def test_closed_forms():
    assert by_matrices(every(1), 200) == tuple(math.comb(200, k) for k in range(201))
    # every later value reads every earlier one, so that a path is any choice of the values between
    assert sum(by_matrices(dense(), 300)) == 2**299


def test_the_bits_are_enough_and_not_many_more():
    for wiring in (every(1), dense(), random_shortcuts(0.4), [Shortcut(0, 1)] * 900):
        bits = Reads.of(80, ends_of(wiring, 80), 1, 0).bits()
        exact = sum(by_integers(wiring, 80)).bit_length()
        assert exact <= bits[-1] <= exact + 3


def test_whichever_is_faster_is_taken(monkeypatch):
    taken = []
    monkeypatch.setattr(counting, "counts", lambda reads: taken.append(reads.layers) or (1,))
    of_wiring(dense(), 60, "layers")
    of_wiring(log2(), 60, "layers")
    assert taken == [60]


def test_ends_are_rows_of_whole_numbers():
    assert ends_of(dense(), 3).tolist() == [[0, 2, 0], [0, 3, 0], [1, 3, 0]]
    wiring = [Shortcut("input", "output"), Shortcut(-2, -1, tap="branch")]
    assert ends_of(dense(merge="cat") + wiring, 2).tolist() == [
        [0, 1, 1], [0, 2, 1], [1, 2, 1], [0, 2, 0], [1, 2, 1],
    ]  # fmt: skip
    assert ends_of(cross(), 2).tolist() == [[0, 1, 0], [0, 1, 0], [0, 2, 0], [1, 2, 0]]
    assert ends_of([], 4).shape == (0, 3)
    assert ends_of(sliding(2), 4).dtype == np.int64


@pytest.mark.parametrize("ends", [(2, 2), (0, 5), (3, 1)])
def test_what_does_not_fit_is_said(ends):
    wiring = [Shortcut(0, 1)] * 200 + [Shortcut(*ends)]
    with pytest.raises(ChainError, match=f"shortcut {ends[0]} -> {ends[1]} does not fit a chain of 4 layers"):
        paths(wiring, layers=4)
