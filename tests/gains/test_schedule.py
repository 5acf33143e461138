"""Gains that change over depth and over training."""

from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch

from skipway import (
    Anneal,
    Chain,
    ChainError,
    Conv,
    Dense,
    Learned,
    Ramp,
    Skip,
    Warmup,
    dense,
    every,
    fit,
    set_step,
    unet,
)
from skipway.gains import undecayed
from skipway.train.optimizers import decay_groups


def gains(net):
    return [net.shortcuts[s.label].scale for s in net.wiring]


def test_over_depth():
    net = Chain(*[Dense(2, 2) for _ in range(4)], wiring=every(1, scale=lambda depth, of: 1 / math.sqrt(2 * of)))
    assert gains(net) == [1 / math.sqrt(8)] * 4
    ramp = every(2, scale=Ramp(1.0, 3.0), path_scale=lambda depth, of: float(depth))
    assert [(s.scale, s.path_scale) for s in ramp(8)] == [(1.5, 1.0), (2.0, 2.0), (2.5, 3.0), (3.0, 4.0)]
    assert eval(repr(every(1, scale=Ramp(0, 1))), {"every": every, "Ramp": Ramp}) == every(1, scale=Ramp(0, 1))
    assert pickle.loads(pickle.dumps(every(1, scale=Ramp(0, 1)))) == every(1, scale=Ramp(0, 1))


def test_depth_is_that_of_the_value_where_a_shortcut_ends():
    depths = {(s.start, s.end): s.scale for s in dense(scale=lambda depth, of: depth / of)(4)}
    assert depths == {(0, 2): 1 / 3, (0, 3): 2 / 3, (1, 3): 2 / 3, (0, 4): 1.0, (1, 4): 1.0, (2, 4): 1.0}
    assert [s.path_scale for s in unet(path_scale=Ramp(0.0, 1.0))(4)] == [1.0, 0.5]


def test_layer_scale_that_begins_lower_the_deeper():
    net = Chain(*[Dense(3, 3) for _ in range(2)], wiring=every(1, scale=Learned(Ramp(0.0, 0.2), per="channel")))
    assert [g.tolist() for g in gains(net)] == [pytest.approx([0.1] * 3), pytest.approx([0.2] * 3)]


def test_prores():
    # 2603.05369: the l-th branch is let in over T * l steps
    net = Chain(*[Dense(2, 2) for _ in range(3)], wiring=every(1, scale=lambda depth, of: Warmup(10 * depth)))
    for step in (0, 5, 10, 17, 25, 30, 1000):
        set_step(net, step)
        assert [float(g.value()) for g in gains(net)] == pytest.approx([min(step / (10 * k), 1) for k in (1, 2, 3)])


def test_steps_are_forwards_in_training():
    net = Skip(Dense(2, 2), scale=Anneal(0.0, 1.0, steps=4))
    gain = net.shortcuts["input->output"].scale
    x = torch.ones(1, 2)
    body = net[0](x)
    for step in range(1, 7):
        assert torch.allclose(net(x), x + min(step / 4, 1.0) * body)
        net.eval()
        assert torch.allclose(net(x), x + min(step / 4, 1.0) * body), "at test the net is what it was at this step"
        net.train()
    assert int(gain.step) == 6
    twin = copy.deepcopy(net)
    assert int(twin.shortcuts["input->output"].scale.step) == 6
    fresh = Skip(Dense(2, 2), scale=Anneal(0.0, 1.0, steps=4))
    fresh.load_state_dict(net.state_dict())
    assert int(fresh.shortcuts["input->output"].scale.step) == 6


def test_making_and_planning_count_no_step():
    net = Skip(Conv(2, 2, 3, padding=1), scale=Warmup(4))
    net.build((2, 8, 8))
    net.eval()(torch.zeros(1, 2, 5, 5))
    assert int(net.shortcuts["input->output"].scale.step) == 0


def test_fit_counts_steps_of_training(tmp_path):
    x, y = torch.randn(40, 3), torch.randint(2, (40,))
    net = Chain(Skip(Dense(3, 3), scale=Warmup(100)), Dense(3, 2))
    fit(net, (x, y), epochs=2, batch=10, lr=1e-3, progress=False)
    assert int(net[0].shortcuts["input->output"].scale.step) == 8


def test_cosine():
    gain = Anneal(2.0, 1.0, steps=10, shape="cosine").make(None)
    assert float(gain.set_step(0).value()) == 2.0
    assert float(gain.set_step(5).value()) == pytest.approx(1.5)
    assert float(gain.set_step(10).value()) == pytest.approx(1.0)
    assert float(gain.set_step(1).value()) == pytest.approx(2.0 - (1 - math.cos(math.pi / 10)) / 2)


def test_gains_do_not_decay():
    net = Chain(
        Skip(Conv(4, 4, 1), scale=Learned(1e-6, per="channel"), path_scale=Learned(1.0)),
        Skip(Conv(4, 4, 1), merge="weighted"),
    )
    names = [name for name, _ in undecayed(net)]
    key = "shortcuts.input->output"
    assert names == [f"0.{key}.scale", f"0.{key}.path_scale", f"1.{key}.merge.weights"]
    assert net[0].shortcuts["input->output"].scale.dim() == 3, "as many axes as a kernel"
    decayed, kept = decay_groups(net)
    assert {id(p) for p in decayed["params"]} == {id(net[i][0].weight) for i in (0, 1)}
    assert kept["weight_decay"] == 0.0
    assert len(kept["params"]) == 5


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Ramp(0, math.inf), "finite numbers"),
        (lambda: Anneal(0, 1, steps=0), "positive whole number, not 0"),
        (lambda: Anneal(0, 1, steps=2, shape="step"), "not 'step'"),
        (lambda: Anneal(None, 1, steps=2), "not None"),
        (lambda: set_step(Dense(1, 1), -1), "from 0 on, not -1"),
        (
            lambda: Skip(Dense(1, 1), scale=lambda depth, of: 1.0),
            "one of depth .l, L. belongs in a pattern such as every",
        ),
        (lambda: Skip(Dense(1, 1), scale=Learned(Ramp(0, 1))), "one shortcut alone has no depth"),
        (
            lambda: Chain(Dense(1, 1), wiring=every(1, scale=lambda depth, of: 1 / (of - 1))),
            r"\(l, L\) = \(1, 1\): ZeroDiv",
        ),
        (lambda: Chain(Dense(1, 1), wiring=every(1, scale=lambda depth, of: "x")), "a scale is a finite number"),
        (lambda: Skip(Dense(1, 1), scale=math.nan), "not nan"),
        (lambda: Skip(Dense(2, 2), scale=torch.nn.Linear(2, 3)), "a gain keeps the shape"),
    ],
)
def test_bad_input_says_what_is_right(make, said):
    with pytest.raises(ChainError, match=said):
        make()
