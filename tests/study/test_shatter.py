import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from skipway import BatchNorm, Chain, ChainError, Conv, Dense, Flatten, OpenChainError, every, relu
from skipway.study import Shatter, shatter
from skipway.study.shatter import _autocorrelation
from skipway.zoo.initialise import he

WIDTH = 100


def chain(depth, norm=True, wiring=()):
    def make():
        block = [BatchNorm] * norm + [lambda: relu, lambda: Dense(WIDTH, WIDTH)]
        body = Chain(*[part() for _ in range(depth) for part in block], wiring=wiring)
        return he(Chain(stem=Dense(1, WIDTH), body=body, head=Dense(WIDTH, 1)), "fan_in", dense=True)

    return make


def quick(net, **options):
    return shatter(net, **{"seeds": 5, "progress": False, **options})


def test_batch_norm_shatters_gradients_and_shortcuts_keep_them():
    """1702.08591: white noise at 24 plain layers with batch norm, correlation with shortcuts."""
    plain, residual = quick(chain(24)), quick(chain(24, wiring=every(3)))
    assert abs(plain.neighbours) < 0.06  # white noise of 5 draws of 256 points: 0.055 in 95 of 100 cases
    assert plain.verdict().startswith("Gradients are shattered")
    assert residual.neighbours > 0.5
    assert residual.verdict().startswith("Gradients are not shattered")
    assert quick(chain(1)).neighbours > 0.7
    # a smaller branch keeps more
    assert quick(chain(24, wiring=every(3, scale=0.1))).neighbours > residual.neighbours + 0.1


def test_the_gradient_is_the_derivative():
    net = Chain(Dense(1, 8, torch.tanh), Dense(8, 1)).double()
    found = quick(net, points=41, seeds=1)
    torch.manual_seed(0)
    sign = float(torch.randn(1, dtype=torch.float64).sign())
    at = torch.linspace(-2, 2, 41, dtype=torch.float64)
    step = 1e-5
    with torch.no_grad():
        values = [net((at + d)[:, None] * sign)[:, 0] for d in (step, -step)]
    torch.testing.assert_close(
        torch.tensor(found.gradients, dtype=torch.float64), (values[0] - values[1]) / (2 * step), rtol=1e-6, atol=1e-8
    )


def test_autocorrelations_of_known_series():
    t = torch.arange(400, dtype=torch.float64)
    wave = _autocorrelation(torch.cos(2 * math.pi * t / 20), 20)
    assert wave[0] == 1
    assert wave[10] == pytest.approx(-0.975, abs=1e-9)  # opposite, over 390 of 400 points
    assert wave[20] == pytest.approx(0.95, abs=1e-9)
    torch.manual_seed(0)
    noise = _autocorrelation(torch.randn(10_000, dtype=torch.float64), 5)
    assert all(abs(value) < 4 / 100 for value in noise[1:])
    walk = _autocorrelation(torch.randn(2000, dtype=torch.float64).cumsum(0), 1)
    assert walk[1] > 0.98
    assert math.isnan(_autocorrelation(torch.ones(9, dtype=torch.float64), 1)[1])


def test_a_linear_net_has_nothing_to_correlate():
    found = quick(Chain(Dense(3, 2)), seeds=2)
    assert "nothing to correlate" in found.verdict()
    json.dumps(found.to_dict(), allow_nan=False)


def test_images_and_several_outputs_work():
    net = Chain(Conv(2, 4, 3, relu, padding=1), Flatten(), Dense(..., 3), input=(2, 5, 5))
    found = quick(net, points=32, lags=4, seeds=2)
    assert len(found.mean()) == 5
    assert len(found.gradients) == 32


def test_nothing_is_left_behind_and_seeds_repeat():
    net = chain(3)().eval()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    state = torch.get_rng_state()
    assert quick(net) == quick(net)
    assert quick(net, seed=9) != quick(net)
    assert torch.equal(torch.get_rng_state(), state)
    assert not net.training
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_a_result_prints_plots_and_is_plain_data(tmp_path: Path):
    found = quick(chain(2), seeds=2, lags=3)
    assert found.verdict() in str(found)
    assert len(found.rows()) == 5
    stored = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert (stored["seeds"], stored["points"], stored["span"]) == ([0, 1], 256, 2.0)
    figure = found.plot(tmp_path / "shatter.png")
    assert (tmp_path / "shatter.png").read_bytes().startswith(b"\x89PNG")
    assert list(figure.axes[1].lines[-1].get_ydata()) == list(found.mean())
    with pytest.raises(AttributeError):
        found.points = 3


@pytest.mark.parametrize(
    ("first", "said"), [(0.0, "are shattered"), (0.2, "are nearly shattered"), (0.8, "are not shattered")]
)
def test_the_verdict_follows_from_the_numbers(first, said):
    assert said in Shatter(((1.0, first),), (0.0,) * 256, 256, 2.0).verdict()


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: shatter(nn.Linear(1, 1)), ChainError, "not a Linear"),
        (lambda: shatter(Chain(Dense(..., 1))), OpenChainError, "open"),
        (lambda: shatter(Chain(relu)), ChainError, "give it input="),
        (lambda: shatter(Chain(Dense(1, 1)), points=4), ChainError, "points must be"),
        (lambda: shatter(Chain(Dense(1, 1)), seeds=0), ChainError, "seeds must be"),
        (lambda: shatter(Chain(Dense(1, 1)), points=16, lags=16), ChainError, "fewer than the 16 points"),
        (lambda: shatter(Chain(Dense(1, 1)), span=math.inf), ChainError, "span must be"),
        (lambda: shatter(Chain(Dense(1, 1)), span=-1), ChainError, "span must be"),
    ],
)
def test_what_cannot_be_studied_is_told(call, error, match):
    with pytest.raises(error, match=match):
        call()


def test_a_line_through_the_origin_tells_nothing_of_a_net_without_biases():
    found = shatter(lambda: Chain(Dense(5, 9, relu, bias=False), Dense(9, 1, bias=False)), seeds=2, progress=False)
    assert len(set(found.gradients)) == 2
    assert "has 2 values only" in found.verdict()
    with_biases = shatter(lambda: Chain(Dense(1, 50, relu), Dense(50, 1)), seeds=2, progress=False)
    assert "values only" not in with_biases.verdict()
