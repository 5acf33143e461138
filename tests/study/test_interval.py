"""Intervals over seeds hold the true mean as often as they say."""

import math
import random
import statistics

import pytest
import torch

from skipway.study.interval import interval, student_t


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 7, 10])
def test_students_t_is_where_its_density_says(degrees):
    edge = student_t(degrees)
    t = torch.linspace(-edge, edge, 400_001, dtype=torch.float64)
    density = (1 + t * t / degrees) ** (-(degrees + 1) / 2)
    scale = math.exp(math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2)) / math.sqrt(degrees * math.pi)
    assert float(torch.trapezoid(density, t)) * scale == pytest.approx(0.95, abs=1e-8)


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_ninety_five_of_a_hundred_intervals_hold_the_mean(seeds):
    draw = random.Random(seeds)
    tries = 4000
    found = [interval([draw.gauss(3.0, 2.0) for _ in range(seeds)]) for _ in range(tries)]
    held = sum(one.low <= 3.0 <= one.high for one in found) / tries
    assert held == pytest.approx(0.95, abs=4 * math.sqrt(0.95 * 0.05 / tries))


def test_one_seed_has_no_interval_and_the_range_is_kept():
    one = interval([0.5])
    assert (one.mean, one.low, one.high) == (0.5, None, None)
    assert one.to_dict()["method"] == "one seed, no interval"
    some = interval([1.0, 2.0, 4.0]).to_dict()
    assert (some["min"], some["max"], some["n"]) == (1.0, 4.0, 3)
    assert some["mean"] == statistics.fmean([1, 2, 4])
    assert "Student t" in some["method"]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_seed_that_diverged_leaves_no_interval(bad):
    found = interval([bad, 1.0])
    assert found.low is None
    assert "not finite" in found.to_dict()["method"]
    assert "±" not in found.told("{:.2f}")
