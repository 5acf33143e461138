import pytest
import torch
from torch import nn

from skipway import Chain, ChainError, Conv, Dense, Drop, DropPath, Learned, Shortcut, Skip, every
from skipway.merges import Mul


def test_constant_gains_act_on_their_own_side(x4):
    net = Skip(Dense(4, 4), scale=0.5, path_scale=-3)
    assert torch.equal(net(x4), 0.5 * net[0](x4) + -3.0 * x4)


@pytest.mark.parametrize("scale", [0, 0.0, 1, 2.5, -1])
def test_gains_of_any_number(scale, x4):
    net = Skip(Dense(4, 4), scale=scale)
    assert torch.equal(net(x4), net[0](x4) * float(scale) + x4)


def test_learned_scale_is_a_parameter_that_starts_at_init(x4):
    net = Skip(Dense(4, 4), scale=Learned(0.0), path_scale=Learned(2.0))
    assert torch.equal(net(x4), 2 * x4)  # ReZero: the block starts as its path
    names = dict(net.named_parameters())
    assert names["shortcuts.input->output.scale"].shape == ()
    assert names["shortcuts.input->output.path_scale"].item() == 2.0
    net(x4).sum().backward()
    assert all(p.grad is not None for p in names.values())


@pytest.mark.parametrize(
    ("layer", "shape", "expected"),
    [
        (lambda: Dense(4, 4), (4,), (4,)),
        (lambda: Dense(4, 4), (7, 4), (4,)),
        (lambda: Conv(4, 4, 3, padding=1, dims=1), (4, 9), (4, 1)),
        (lambda: Conv(4, 4, 3, padding=1), (4, 9, 9), (4, 1, 1)),
    ],
)
def test_a_scale_per_channel_lies_along_the_features(layer, shape, expected):
    net = Skip(layer(), scale=Learned(0.0, per="channel"), input=shape)
    scale = net.shortcuts["input->output"].scale
    assert scale.shape == expected
    with torch.no_grad():
        scale.copy_(torch.arange(4.0).reshape(expected))
    x = torch.randn(2, *shape)
    axis = 1 if len(expected) > 1 else -1
    ratio = (net(x) - x) / net[0](x)
    for channel in range(4):
        assert torch.allclose(ratio.select(axis, channel), torch.tensor(float(channel)), atol=1e-3)


def test_gains_follow_cat_and_projection(x4):
    net = Skip(Dense(4, 6), merge="cat", path="project", scale=2.0, path_scale=3.0)
    assert torch.equal(net(x4), torch.cat([2.0 * net[0](x4), 3.0 * x4], -1))


@pytest.mark.parametrize(
    ("bad", "what"),
    [(float("nan"), "finite"), (float("inf"), "finite"), ("x", "finite"), (True, "finite"), (torch.ones(3), "finite")],
)
def test_scales_that_are_none_are_refused_with_the_place(bad, what):
    with pytest.raises(ChainError, match=rf"test_gains\.py:\d+.*{what}"):
        Shortcut(0, 1, scale=bad)
    with pytest.raises(ChainError, match=what):
        Shortcut(0, 1, path_scale=bad)


def test_learned_checks_its_words():
    with pytest.raises(ChainError, match="finite"):
        Learned(float("nan"))
    with pytest.raises(ChainError, match='"tensor" or "channel"'):
        Learned(per="row")


def test_a_constant_gain_changed_afterwards_is_not_silently_ignored(x4):
    net = Skip(Dense(4, 4), scale=0.5)
    try:
        net.shortcuts["input->output"].scale = 0.0
    except (ChainError, AttributeError):
        return
    assert torch.equal(net(x4), x4)


# -- random drop -------------------------------------------------------------------------------------------------------

LAWS = ["train-scale", "test-scale"]


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("mode", ["row", "batch"])
@pytest.mark.parametrize("p", [0.1, 0.5, 0.8])
def test_the_mean_over_draws_is_the_test_law(law, mode, p):
    drop, x = DropPath(p, mode, law), torch.ones(1, 3, dtype=torch.float64)
    draws = torch.stack([drop(x) for _ in range(4000)]).mean(0)
    # five standard deviations of the mean of 4000 draws
    spread = (p * (1 - p) / 4000) ** 0.5 * (1 / (1 - p) if law == "train-scale" else 1)
    assert torch.allclose(draws, drop.eval()(x), rtol=0, atol=5 * spread)


@pytest.mark.parametrize("law", LAWS)
def test_dropped_rows_are_whole(law):
    drop, x = DropPath(0.5, law=law), torch.ones(200, 3, 2)
    out = drop(x)
    kept = 2.0 if law == "train-scale" else 1.0
    assert set(out.unique().tolist()) == {0.0, kept}
    assert all(len(row.unique()) == 1 for row in out)


def test_batch_mode_draws_once_for_all():
    drop = DropPath(0.5, mode="batch")
    assert {len(drop(torch.ones(20, 3)).unique()) for _ in range(20)} == {1}


def test_a_dropped_branch_leaves_the_shortcut(x4):
    net = Skip(Dense(4, 4), drop=Drop(0.5)).train()
    branch = net[0](x4)
    for _ in range(10):
        gain = (net(x4) - x4) / branch
        assert ((gain.abs() < 1e-4) | ((gain - 2).abs() < 1e-3)).all()
    assert torch.equal(net.eval()(x4), branch + x4)


def test_stochastic_depth_scales_at_test_time(x4):
    net = Skip(Dense(4, 4), drop=Drop(0.25, law="test-scale")).eval()
    assert torch.equal(net(x4), net[0](x4) * 0.75 + x4)


def test_drop_comes_after_scale(x4):
    net = Skip(Dense(4, 4), scale=3.0, drop=0.5).eval()
    assert torch.equal(net(x4), 3.0 * net[0](x4) + x4)


def test_drop_nought_is_nothing():
    assert Skip(Dense(4, 4), drop=0.0).shortcuts["input->output"].drop is None


@pytest.mark.parametrize("p", [1.0, -0.1, 2, True, "x", float("nan")])
def test_probabilities_that_are_none_are_refused(p):
    with pytest.raises(ChainError, match=r"probability in \[0, 1\)"):
        Shortcut(0, 1, drop=p)


@pytest.mark.parametrize("options", [{"path_scale": 0}, {"merge": "mul"}, {"merge": Mul()}, {"merge": Mul}])
def test_drop_where_nothing_would_remain_is_refused(options):
    with pytest.raises(ChainError, match="only path"):
        Shortcut(0, 1, drop=0.5, **options)


def test_drop_words_are_checked():
    with pytest.raises(ChainError, match=r'"row" \(every sample\)'):
        Drop(0.5, mode="sample")
    with pytest.raises(ChainError, match='"train-scale" or "test-scale"'):
        Drop(0.5, law="none")


@pytest.mark.parametrize(
    "options",
    [
        {"scale": 0.5},
        {"path_scale": 0.5},
        {"scale": Learned(0.3)},
        {"path_scale": Learned(0.3, per="channel")},
        {"scale": Learned(0.3, per="channel"), "drop": 0.5},
    ],
)
def test_gradients_agree_with_finite_differences(options):
    net = Chain(Dense(4, 4, torch.tanh), Dense(4, 4), wiring=every(1, **options)).double().eval()
    assert torch.autograd.gradcheck(net, (torch.randn(3, 4, dtype=torch.float64, requires_grad=True),))
    leaves = [p.detach().clone().requires_grad_() for p in net.parameters()]
    names = [n for n, _ in net.named_parameters()]
    x = torch.randn(2, 4, dtype=torch.float64)

    def of_parameters(*held):
        return torch.func.functional_call(net, dict(zip(names, held, strict=True)), (x,))

    assert torch.autograd.gradcheck(of_parameters, leaves)


def test_drop_is_a_module_of_the_chain_and_follows_its_mode():
    net = Chain(nn.Identity(), Dense(4, 4), wiring=[Shortcut(1, 2, drop=0.5)])
    drop = net.shortcuts["1->2"].drop
    assert drop in list(net.modules())
    assert net.eval().training is drop.training is False
    assert net.train().training is drop.training is True
