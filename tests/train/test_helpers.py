import threading
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from skipway.errors import DataError
from skipway.train import onecold, onehot, throttle


@settings(max_examples=40)
@given(st.data())
def test_onecold_undoes_onehot(data: st.DataObject) -> None:
    labels = data.draw(st.lists(st.one_of(st.integers(), st.text(), st.booleans().map(str)), min_size=1, unique=True))
    y = data.draw(st.lists(st.sampled_from(labels), min_size=1))
    hot = onehot(y, labels)
    assert hot.shape == (len(y), len(labels))
    assert hot.dtype == torch.float32
    assert torch.equal(hot.sum(-1), torch.ones(len(y)))
    assert onecold(hot, labels) == y


def test_onehot_of_numbers_and_of_one_label() -> None:
    y = torch.tensor([[2, 0], [1, 1]])
    assert torch.equal(onecold(onehot(y, 3)), y)
    assert onehot(y, 3).shape == (2, 2, 3)
    assert onehot("b", ["a", "b"]).tolist() == [0.0, 1.0]
    assert onecold(torch.tensor([0.1, 0.9]), ["a", "b"]) == "b"
    assert onehot([[1, 2]], [1, 2]).shape == (1, 2, 2)
    assert onehot(torch.tensor([]).long(), 4).shape == (0, 4)


@pytest.mark.parametrize(
    ("y", "labels", "said"),
    [
        ([0, 3], 3, "from 0 to 3.*0 to 2"),
        ([-1], 3, "from -1"),
        (torch.tensor([0.5]), 3, r"y.long\(\)"),
        ([0.5], 3, "whole-number"),
        (["dgo"], ["cat", "dog"], "did you mean 'dog'"),
        (["a"], 2, "whole-number"),
        (["a"], ["a", "a"], "twice"),
        ([0], 0, "at least one"),
    ],
)
def test_onehot_refuses(y: object, labels: object, said: str) -> None:
    with pytest.raises(DataError, match=said):
        onehot(y, labels)  # type: ignore[arg-type]


def test_onecold_refuses_labels_of_another_number() -> None:
    with pytest.raises(DataError, match=r"\(\*, 3\).*\(5, 2\)"):
        onecold(torch.zeros(5, 2), ["a", "b", "c"])
    with pytest.raises(DataError):
        onecold(torch.tensor(1.0))


class Time:
    """A clock and its timers, moved by hand."""

    def __init__(self) -> None:
        self.now = 0.0
        self.due: list[tuple[float, Callable[[], None]]] = []

    def timer(self, seconds: float, f: Callable[[], None]) -> None:
        self.due.append((self.now + seconds, f))

    def go(self, seconds: float) -> None:
        end = self.now + seconds
        while ready := sorted((d for d in self.due if d[0] <= end), key=lambda d: d[0]):
            self.due.remove(ready[0])
            self.now = ready[0][0]
            ready[0][1]()
        self.now = end


def throttled(leading: bool, trailing: bool) -> tuple[Time, list[tuple[float, int]], Callable[[int], object]]:
    time = Time()
    calls: list[tuple[float, int]] = []

    def f(i: int) -> int:
        calls.append((time.now, i))
        return i

    return time, calls, throttle(f, 10, leading, trailing, clock=lambda: time.now, timer=time.timer)


@pytest.mark.parametrize(
    ("leading", "trailing", "expected"),
    [
        (True, False, [(0, 0), (10, 10), (20, 20)]),
        (True, True, [(0, 0), (10, 9), (20, 19), (30, 24)]),
        (False, True, [(10, 9), (20, 19), (30, 24)]),
        (False, False, [(10, 0), (30, 20)]),
    ],
)
def test_throttle_over_25_calls_a_second_apart(
    leading: bool, trailing: bool, expected: list[tuple[float, int]]
) -> None:
    time, calls, f = throttled(leading, trailing)
    for i in range(25):
        f(i)
        time.go(1)
    time.go(100)
    assert calls == expected


@settings(max_examples=50)
@given(st.booleans(), st.booleans(), st.lists(st.floats(0, 30), max_size=30))
def test_throttle_keeps_its_distance_and_invents_no_call(leading: bool, trailing: bool, gaps: list[float]) -> None:
    time, calls, f = throttled(leading, trailing)
    for i, gap in enumerate(gaps):
        time.go(gap)
        f(i)
    time.go(1000)
    times = [t for t, _ in calls]
    assert all(b - a >= 10 - 1e-6 for a, b in pairwise(times))
    assert [i for _, i in calls] == sorted({i for _, i in calls})
    if trailing and gaps:
        assert calls[-1][1] == len(gaps) - 1


def test_throttle_gives_the_last_result_and_flushes() -> None:
    time, calls, f = throttled(True, True)
    assert f(1) == 1
    assert f(2) == 1
    assert f.flush() == 2  # type: ignore[attr-defined]
    time.go(100)
    assert [i for _, i in calls] == [1, 2]


def test_a_trailing_call_comes_by_itself() -> None:
    done = threading.Event()
    f = throttle(lambda last: done.set() if last else None, 0.01, trailing=True)
    f(False)
    f(True)
    assert done.wait(5)
