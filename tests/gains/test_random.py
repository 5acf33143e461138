"""Random gains: their corners, and the law that the mean over draws is what the net does at test."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from skipway import (
    Chain,
    ChainError,
    Conv,
    Dense,
    Drop,
    DropPath,
    Join,
    Parallel,
    Ramp,
    Shake,
    ShakeDrop,
    Shortcut,
    Skip,
    Swapout,
    every,
    global_drop_path,
    identity,
)
from skipway.gains.random import with_backward
from skipway.merges.random import JoinModule

DRAWS = 40_000


def linear(**options) -> Skip:
    return Skip(Dense(2, 2, bias=False), **options)


LAWS = {
    "stochastic depth": lambda: linear(drop=Drop(0.4, law="test-scale")),
    "drop path": lambda: linear(drop=Drop(0.4)),
    "dropped elements": lambda: linear(drop=Drop(0.4, mode="element")),
    "shake drop": lambda: linear(drop=ShakeDrop(0.4, alpha=(-1.0, 0.5))),
    "swapout": lambda: linear(merge=Swapout(0.3, 0.6)),
    "swapout of rows": lambda: linear(merge=Swapout(0.3, 0.6, mode="row")),
    "shake-shake": lambda: Chain(Parallel(Dense(2, 2), Dense(2, 2), merge=Shake())),
    "shake of three": lambda: Chain(Parallel(*[Dense(2, 2) for _ in range(3)], merge=Shake())),
}


@pytest.mark.parametrize("law", LAWS)
def test_the_mean_over_draws_is_the_output_at_test(law):
    torch.manual_seed(0)
    net = LAWS[law]()
    x = torch.tensor([[0.7, -1.3]])
    with torch.no_grad():
        expected = net.eval()(x)
        # a row of the batch is a draw where the law draws for rows, or for elements
        drawn = net.train()(x.expand(DRAWS, -1))
    if len(drawn.unique(dim=0)) < 4:  # one draw for the batch
        with torch.no_grad():
            drawn = torch.cat([net(x) for _ in range(4000)])
    error = drawn.std(0) / len(drawn) ** 0.5
    assert (drawn.std(0) > 0).any(), "it is not random"
    assert ((drawn.mean(0) - expected[0]).abs() <= 5 * error + 1e-6).all()


@pytest.mark.parametrize("mode", ["batch", "element", "row"])
@pytest.mark.parametrize("law", ["train-scale", "test-scale"])
def test_the_laws_of_drop(mode, law):
    torch.manual_seed(0)
    drop = DropPath(0.25, mode, law)
    x = torch.ones(512, 4)
    drawn = torch.stack([drop(x) for _ in range(40)])
    kept = 1 / 0.75 if law == "train-scale" else 1.0
    assert {round(v, 5) for v in drawn.unique().tolist()} == {0.0, round(kept, 5)}
    independent = {"batch": 40, "row": 40 * 512, "element": 40 * 512 * 4}[mode]
    assert abs((drawn > 0).float().mean() - 0.75) < 5 * (0.75 * 0.25 / independent) ** 0.5
    one = drawn[0]
    assert (len(one.unique()) == 1) == (mode == "batch")
    assert bool((one == one[:, :1]).all()) == (mode != "element")


def test_a_drop_that_grows():
    torch.manual_seed(0)
    drop = Drop(0.5, warmup=10).make()
    x = torch.ones(4000, 1)
    shares = [float((drop(x) == 0).float().mean()) for _ in range(20)]
    expected = [0.5 * min(t / 10, 1.0) for t in range(1, 21)]
    assert all(abs(a - b) < 0.05 for a, b in zip(shares, expected, strict=True))
    assert torch.equal(drop.eval()(x), x)
    assert int(drop.grows.step) == 20


def test_the_linear_law_of_stochastic_depth():
    # 1603.09382: of 54 blocks with a last one dropped half of the time, (3 L - 1) / 4 remain on average
    drops = Ramp(0.0, 0.5).over(54)
    assert sum(1 - p for p in drops) == pytest.approx((3 * 54 - 1) / 4)
    net = Chain(*[Dense(2, 2) for _ in range(54)], wiring=every(1, drop=Drop(Ramp(0.0, 0.5), "batch", "test-scale")))
    assert [s.drop.p for s in net.wiring] == drops
    assert {(s.drop.mode, s.drop.law) for s in net.wiring} == {("batch", "test-scale")}


def test_a_gradient_of_its_own():
    x = torch.randn(5, requires_grad=True)
    forward, backward = torch.randn(5), torch.randn(5)
    out = with_backward(x, forward, backward)
    assert torch.equal(out, x * forward)
    out.sum().backward()
    assert torch.allclose(x.grad, backward)


def test_corners_of_shake_drop():
    x = torch.randn(6, 3, requires_grad=True)
    assert ShakeDrop(0.0).make() is None, "never shaken, it is the residual"
    # alpha = beta = 0 is stochastic depth: the same draw of the same generator
    shaken = ShakeDrop(0.5, alpha=(0.0, 0.0), beta=(0.0, 0.0)).make()
    dropped = DropPath(0.5, "batch", "test-scale")
    seen = set()
    for seed in range(20):
        torch.manual_seed(seed)
        a = shaken(x)
        torch.manual_seed(seed)
        b = dropped(x)
        assert torch.equal(a, b)
        (grad,) = torch.autograd.grad(a.sum(), x)
        assert torch.equal(grad, torch.full_like(x, float(bool(a.any()))))
        seen.add(bool(a.any()))
    assert seen == {False, True}
    assert torch.equal(shaken.eval()(x), dropped.eval()(x))


def test_shaken_forward_and_backward_differ():
    torch.manual_seed(0)
    shaken = ShakeDrop(1.0, alpha=(-1.0, -0.5), beta=(2.0, 3.0)).make()
    x = torch.ones(50, 2, requires_grad=True)
    out = shaken(x)
    out.sum().backward()
    assert bool(((out >= -1) & (out <= -0.5)).all())
    assert bool(((x.grad >= 2) & (x.grad <= 3)).all())
    assert torch.equal(out[:, 0], out[:, 1])
    assert len(out[:, 0].unique()) == 50
    assert float(shaken.eval()(torch.ones(1))) == pytest.approx(-0.75)


def test_corners_of_swapout():
    body = Dense(4, 4)
    x = torch.randn(7, 4)

    def net(**options):
        return Skip(body, **options).train()

    assert torch.equal(net(merge=Swapout(0.0, 0.0))(x), body(x) + x), "the residual"
    assert torch.equal(net(merge=Swapout(0.0, 1.0))(x), body(x)), "the plain net"
    assert torch.equal(net(merge=Swapout(1.0, 0.0))(x), x), "no layer at all"
    torch.manual_seed(3)
    rows = net(merge=Swapout(0.5, 0.0, mode="row"))(x) - x
    dropped = (rows == 0).all(1)
    assert torch.allclose(rows[~dropped], body(x)[~dropped], atol=1e-6)
    assert 0 < int(dropped.sum()) < 7, "stochastic depth"


def test_shake_shake():
    a, b = nn.Identity(), nn.Identity()
    both = Parallel(Chain(a), Chain(b), merge=Shake())
    x = torch.ones(100, 3, 2, 2, requires_grad=True)
    assert torch.allclose(both(x), x), "the weights of the forward have the sum 1"

    first, second = torch.ones(100, 3, requires_grad=True), torch.zeros(100, 3, requires_grad=True)
    out = both.merge(first, second)
    out.sum().backward()
    assert torch.allclose(first.grad + second.grad, torch.ones(100, 3))
    weight = out[:, 0].detach()
    assert bool(((weight > 0) & (weight < 1)).all())
    assert len(weight.unique()) == 100, "a draw for every image"
    assert not torch.allclose(weight, first.grad[:, 0]), "and another one for the backward"


@pytest.mark.parametrize(
    ("options", "same"), [({"backward": "keep"}, True), ({"forward": "even", "backward": "keep"}, True), ({}, False)]
)
def test_variants_of_shake(options, same):
    torch.manual_seed(0)
    merge = Shake(**options).make_many(2)
    first, second = torch.ones(9, 1, requires_grad=True), torch.zeros(9, 1, requires_grad=True)
    out = merge(first, second)
    out.sum().backward()
    assert torch.allclose(out, first.grad) == same
    if options.get("forward") == "even":
        assert torch.equal(out, torch.full_like(out, 0.5))


def test_local_drop_path_keeps_one_at_least():
    torch.manual_seed(0)
    join = JoinModule(0.6, (0, 1, 2))
    values = [torch.full((1,), float(10**i)) for i in range(3)]
    seen = {round(float(join(*values)), 3) for _ in range(500)}
    means = {1.0, 10.0, 100.0, 5.5, 50.5, 55.0, 37.0}  # of every set of branches that is not empty
    assert seen == means
    assert float(join.eval()(*values)) == 37.0


def test_the_mean_over_local_draws_is_the_mean():
    torch.manual_seed(0)
    join = JoinModule(0.4, (0, 1, 2))
    values = [torch.tensor([1.0]), torch.tensor([4.0]), torch.tensor([-2.0])]
    drawn = torch.stack([join(*values) for _ in range(6000)])
    assert abs(float(drawn.mean()) - 1.0) < 5 * float(drawn.std()) / 6000**0.5


def fractal(columns: int, first: int = 0) -> Chain:
    """Layers that multiply by two, in a fractal: column c is a row of 2**c of them."""
    deep = columns - first
    conv = Chain(lambda x: 2 * x)
    if deep == 1:
        return conv
    inner = Chain(fractal(columns, first + 1), fractal(columns, first + 1))
    names = tuple(range(first, columns))
    branches = [conv, inner]
    return Chain(Parallel(*branches, merge=Join(0.3, (first, names[1]))))


def test_global_drop_path_lets_one_column_through():
    torch.manual_seed(0)
    net = global_drop_path(fractal(2), share=1.0)
    seen = {float(net(torch.ones(1, 1))) for _ in range(30)}
    assert seen == {2.0, 4.0}, "one layer, or two of them"
    assert float(net.eval()(torch.ones(1, 1))) == 3.0
    local = global_drop_path(fractal(2), share=0.0)
    assert {float(local(torch.ones(1, 1))) for _ in range(60)} == {2.0, 3.0, 4.0}


def test_a_random_gain_does_not_draw_in_the_dry_run():
    torch.manual_seed(1)
    Skip(Conv(2, 2, 1), drop=Drop(0.5), input=(2, 4, 4))
    after = torch.rand(3)
    torch.manual_seed(1)
    Conv(2, 2, 1)
    assert torch.equal(after, torch.rand(3))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Drop(1.0), r"probability in \[0, 1\), not 1.0"),
        (lambda: Drop(0.2, mode="rows"), "not 'rows'"),
        (lambda: Drop(0.2, law="scale"), "not 'scale'"),
        (lambda: Drop(0.2, warmup=-1), "number of steps"),
        (lambda: Drop(0.2, law="test-scale", warmup=3), "train-scale"),
        (lambda: ShakeDrop(1.5), r"probability in \[0, 1\], not 1.5"),
        (lambda: ShakeDrop(0.5, alpha=(1.0, -1.0)), "alpha is"),
        (lambda: Swapout(1, 1), "would drop the branch and the shortcut"),
        (lambda: Swapout(-0.1, 0), "not -0.1"),
        (lambda: Shake(backward="even-ish"), "not 'even-ish'"),
        (lambda: Join(1.0), "not 1.0"),
        (lambda: Parallel(identity, identity, merge=Join(0.1, (0, 1, 2))), "names 3 columns, and 2 values meet"),
        (lambda: Parallel(identity, identity, merge=Swapout()), "swapout weighs a branch against a shortcut; use Skip"),
        (lambda: global_drop_path(Chain(Dense(2, 2))), "this one has none"),
        (lambda: Ramp(0.0, 0.5)(55, 54), "there is no number 55"),
        (lambda: Ramp(0.0, 0.5)(0, 54), "there is no number 0"),
        (lambda: Skip(Dense(2, 2), drop=Drop(Ramp(0, 0.5))), "one shortcut alone has no depth"),
    ],
)
def test_bad_input_says_what_is_right(make, said):
    with pytest.raises(ChainError, match=said):
        make()


def test_a_drop_inside_a_nested_chain_with_a_shortcut_around_it():
    net = Chain(Dense(4, 4), Chain(Dense(4, 4), DropPath(0.5)), wiring=[Shortcut(1, 2)])
    assert net(torch.zeros(1, 4)).shape == (1, 4)
    assert copy.deepcopy(net)(torch.zeros(1, 4)).shape == (1, 4)
    with pytest.raises(ChainError, match="no shortcut around it"):
        Chain(Dense(4, 4), Chain(Dense(4, 4), DropPath(0.5)))(torch.zeros(1, 4))


def test_a_fractal_compiles_in_training():
    torch._dynamo.reset()
    net = global_drop_path(fractal(2))
    net = Chain(Dense(3, 3), net, input=3)
    torch.compile(net, backend="aot_eager", fullgraph=True)(torch.randn(2, 3)).sum().backward()
    assert net[0].weight.grad is not None
