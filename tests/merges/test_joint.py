"""Merges that take all shortcuts into a value at once: what they compute, and what happens when one is left out."""

from __future__ import annotations

import copy

import pytest
import torch

from skipway import (
    Chain,
    ChainError,
    Conv,
    Dense,
    Learned,
    LowRank,
    Parallel,
    Shortcut,
    Skip,
    Weighted,
    dense,
    every,
    tanh,
)


def stack(wiring, layers=4, width=5):
    torch.manual_seed(0)
    return Chain(*[Dense(width, width, tanh) for _ in range(layers)], wiring=wiring)


def shaken(net):
    for p in net.shortcuts.parameters():
        torch.nn.init.normal_(p)
    return net


def test_denseformer_begins_as_the_chain_without_shortcuts():
    # 2402.02622
    net = stack(dense(merge=Weighted()), layers=6)
    x = torch.randn(3, 5)
    assert torch.allclose(net(x), net.plain()(x), atol=1e-6)


@pytest.mark.parametrize(("depth", "weights"), [(12, 90), (24, 324), (48, 1224), (100, 5150)])
def test_denseformer_has_so_many_weights(depth, weights):
    net = Chain(*[Dense(1, 1, bias=False) for _ in range(depth)], wiring=dense(merge=Weighted()))
    assert sum(p.numel() for p in net.shortcuts.parameters()) == weights == depth * (depth + 3) // 2


@pytest.mark.parametrize("by", ["free", "softmax", "positive"])
def test_it_is_its_formula(by):
    net = shaken(stack(dense(merge=Weighted(by))))
    x = torch.randn(3, 5)
    made, value = [x], x
    for k, layer in enumerate(net, 1):
        branch = layer(value)
        w = net.shortcuts[f"0->{k}"].merge.weights
        share = {"free": w, "softmax": w.softmax(0), "positive": torch.relu(w) / (torch.relu(w).sum() + 1e-4)}[by]
        value = branch * share[0] + sum(v * s for v, s in zip(made, share[1:], strict=True))
        made.append(branch)
    assert torch.allclose(net(x), value, atol=1e-6)


def test_softmax_weights_have_the_sum_one():
    net = shaken(stack(dense(merge=Weighted("softmax"))))
    for k in range(1, 5):
        shares = net.shortcuts[f"0->{k}"].merge.shares()
        assert len(shares) == k + 1
        assert float(shares.detach().sum()) == pytest.approx(1.0)
    positive = Weighted("positive").make_many(5)
    assert torch.allclose(positive.shares(), torch.full((5,), 0.2), atol=1e-4)


def test_laurel():
    # 2411.07501: a learned weight for the branch and one for the residual, beginning as the residual
    net = Skip(Dense(4, 4), merge=Weighted(init="sum"))
    x = torch.randn(2, 4)
    assert torch.allclose(net(x), net[0](x) + x)
    assert sum(p.numel() for p in net.shortcuts.parameters()) == 2


def test_the_first_of_them_holds_the_weights():
    net = stack([Shortcut(0, 3, merge="weighted"), Shortcut(1, 3, merge="weighted", path="project"), Shortcut(2, 4)])
    held = {name: p.shape for name, p in net.shortcuts.named_parameters()}
    assert held == {"0->3.merge.weights": (3,)}
    assert 'edge["0->3"].merge(x, x0, x1)' in net.code


def test_what_differs_merges_by_itself():
    two = stack([Shortcut(0, 3, merge="weighted"), Shortcut(1, 3, merge=Weighted("softmax"))])
    assert {n: p.numel() for n, p in two.shortcuts.named_parameters()} == {
        "0->3.merge.weights": 2,
        "1->3.merge.weights": 2,
    }
    between = stack([Shortcut(0, 3, merge="weighted"), Shortcut(1, 3), Shortcut(2, 3, merge="weighted")])
    assert [p.numel() for p in between.shortcuts.parameters()] == [2, 2]


def test_gains_and_activation_are_those_of_the_first():
    wiring = [
        Shortcut(k, 2, merge=Weighted(init="sum"), scale=0.5, path_scale=0.25 * (k + 1), act=torch.tanh) for k in (0, 1)
    ]
    net = stack(wiring, layers=2)
    x = torch.randn(2, 5)
    one = net[0](x)
    assert torch.allclose(net(x), torch.tanh(0.5 * net[1](one) + 0.25 * x + 0.5 * one), atol=1e-6)


def test_each_has_a_path_and_a_gain_of_its_own():
    net = Chain(
        a=Dense(3, 4), b=Dense(4, 5), c=Dense(5, 6),
        wiring=[
            Shortcut(k, "c", merge="weighted", path="project", path_scale=Learned(0.5)) for k in ("input", "a", "b")
        ],
    )  # fmt: skip
    x = torch.randn(2, 3)
    values = net.features(x, at=["input", "a", "b"])
    branch = net["c"](values["b"])
    shuffled = shaken(net)
    w = shuffled.shortcuts["input->c"].merge.weights
    values = shuffled.features(x, at=["input", "a", "b"])
    branch = shuffled["c"](values["b"])
    expected = w[0] * branch
    for weight, name in zip(w[1:], values, strict=True):
        held = shuffled.shortcuts[f"{name}->c"]
        expected = expected + weight * (held.path(values[name]) * held.path_scale)
    assert torch.allclose(shuffled(x), expected, atol=1e-6)


@pytest.mark.parametrize("gone", ["0->3", "1->3", "2->3"])
def test_without_one_the_others_keep_what_they_learned(gone):
    wiring = [Shortcut(k, 3, merge=Weighted("softmax"), path=LowRank(1), path_scale=Learned(0.5)) for k in (0, 1, 2)]
    net = shaken(stack(wiring, layers=3))
    weights = net.shortcuts["0->3"].merge.weights.tolist()
    rest = net.without(gone)
    stay = [s.label for s in wiring if s.label != gone]
    del weights[1 + int(gone[0])]
    assert rest.shortcuts[stay[0]].merge.weights.tolist() == weights
    for label in stay:
        assert rest.shortcuts[label].path is net.shortcuts[label].path
        assert rest.shortcuts[label].path_scale is net.shortcuts[label].path_scale
    assert [n for n, _ in rest.shortcuts.named_parameters() if n.endswith("weights")] == [f"{stay[0]}.merge.weights"]
    x = torch.randn(2, 5)
    built = stack([s for s in wiring if s.label != gone], layers=3)
    built.load_state_dict(rest.state_dict())
    assert torch.equal(rest(x), built(x))
    assert net.shortcuts["0->3"].merge.weights.numel() == 4, "the net itself is as it was"


def test_in_another_order_each_keeps_its_weight():
    wiring = [Shortcut(k, 3, merge=Weighted()) for k in (0, 1, 2)]
    net = shaken(stack(wiring, layers=3))
    again = net.rewire([wiring[2], wiring[0], wiring[1]])
    x = torch.randn(4, 5)
    assert torch.allclose(net(x), again(x), atol=1e-6)
    assert [n for n, _ in again.shortcuts.named_parameters()] == ["2->3.merge.weights"], "nothing is left behind"
    more = net.without("1->3").rewire(wiring)
    weights = net.shortcuts["0->3"].merge.weights.tolist()
    weights[2] = 0.0
    assert more.shortcuts["0->3"].merge.weights.tolist() == weights, "a new one begins as it would"


def test_shortcuts_of_two_chains_do_not_merge_at_once():
    inner = Chain(a=Dense(5, 5), b=Dense(5, 5), wiring=[Shortcut(0, 2, merge="weighted")])
    held = inner.shortcuts["0->2"].merge
    net = Chain(stem=Dense(5, 5), enc=inner, wiring=[Shortcut("stem", "enc.b", merge="weighted", name="outer")])
    assert inner.shortcuts["0->2"].merge is held
    assert {n: p.numel() for n, p in net.named_parameters() if "shortcuts" in n} == {
        "enc.shortcuts.0->2.merge.weights": 2, "shortcuts.outer.merge.weights": 2,
    }  # fmt: skip
    x = torch.randn(2, 5)
    assert net["enc"](x).shape == net.without("outer")(x).shape == (2, 5)


def test_rewired_alike_the_weights_stay():
    net = shaken(stack(dense(merge=Weighted("softmax"))))
    again = net.rewire(dense(merge=Weighted("softmax")))
    assert again.shortcuts["0->4"].merge.weights is net.shortcuts["0->4"].merge.weights
    x = torch.randn(2, 5)
    assert torch.equal(net(x), again(x))
    assert torch.equal(copy.deepcopy(net)(x), net(x))


def test_for_images_of_any_size():
    net = Chain(*[Conv(3, 3, 3, padding=1) for _ in range(3)], wiring=dense(merge="weighted"))
    for size in (8, 5):
        assert net(torch.randn(1, 3, size, size)).shape == (1, 3, size, size)


def test_a_new_size_leaves_the_mode_of_a_part():
    # dropping at test on purpose, as Monte Carlo dropout does, must not end with the first image of another size
    net = Skip(Conv(2, 2, 1), drop=0.5).eval()
    net.shortcuts["input->output"].drop.train()
    net(torch.zeros(1, 2, 6, 6))
    assert net.shortcuts["input->output"].drop.training


def test_branches_side_by_side():
    net = Parallel(Dense(4, 3), Dense(4, 3), Dense(4, 3), merge=Weighted("positive"))
    x = torch.randn(2, 4)
    assert torch.allclose(net(x), sum(b(x) for b in net.branches) / 3, atol=1e-3)
    assert dict(net.named_parameters())["merge.weights"].shape == (3,)
    assert repr(Chain(net)) == (
        "Chain(Parallel(Dense(4, 3), Dense(4, 3), Dense(4, 3), merge=Weighted(by='positive')), input=(4,))"
    )


def test_bad_input():
    with pytest.raises(ChainError, match="did you mean 'softmax'"):
        Weighted("softmx")
    with pytest.raises(ChainError, match='"branch", "mean" or "sum", not \'last\''):
        Weighted(init="last")
    with pytest.raises(ChainError, match='sum 1, and cannot begin with init="sum": say "mean"'):
        Weighted("softmax", init="sum")
    with pytest.raises(ChainError, match="weighted needs equal shapes"):
        Chain(Dense(3, 4), Dense(4, 5), wiring=every(1, merge="weighted"))
