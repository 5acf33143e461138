"""The fastest way is found, and the others are not waited for."""

import pytest

from skipway.deploy import measure
from skipway.deploy.measure import LONG, measured, seconds_of


@pytest.fixture
def clock(monkeypatch):
    """Time that passes only when a way is called."""
    now = [0.0]
    monkeypatch.setattr(measure.time, "perf_counter", lambda: now[0])
    return now


def ways(clock, **seconds):
    """Ways that take just so long, and the names of those called."""
    called = []

    def way(name, took):
        def call():
            called.append(name)
            clock[0] += took

        return call

    return {name: way(name, took) for name, took in seconds.items()}, called


def test_medians_in_milliseconds(clock):
    found, _ = ways(clock, quick=0.001, slow=0.0012)
    took, behind = measured(found, seconds=0.5)
    assert took == pytest.approx({"quick": 1.0, "slow": 1.2})
    assert not behind


def test_what_is_far_behind_is_called_once_and_told(clock):
    found, called = ways(clock, endless=20.0, quick=0.1, never=30.0)
    took, behind = measured(found, seconds=1.0)
    assert called.count("endless") == called.count("never") == 1
    assert behind == {"endless", "never"}
    assert took["endless"] == pytest.approx(20_000.0)


def test_what_is_not_near_is_left_after_a_third_of_the_time(clock):
    found, called = ways(clock, quick=0.01, near=0.011, behind=0.02)
    measured(found, seconds=1.0)
    assert called.count("near") > 2 * called.count("behind")


def test_long_calls_are_made_as_seldom_as_can_be(clock):
    found, called = ways(clock, one=10 * LONG, two=10 * LONG)
    measured(found, seconds=0.0)
    assert called.count("one") == called.count("two") == 1 + 1 + 3  # first, a round, and three of those near


def test_short_calls_are_timed_many_at_once_after_one_that_is_not(clock):
    found, called = ways(clock, only=0.001)
    measured(found, seconds=0.0)
    assert len(called) == 2 + 2 * (1 + 10)


def test_a_call_that_takes_no_time_can_be_divided_by(clock):
    assert seconds_of(lambda: None) > 0
