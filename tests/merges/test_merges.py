import pytest
import torch
from torch import nn

from skipway import Cat, Chain, ChainError, Conv, Dense, Gate, LayerNorm, ShapeError, Shortcut, Skip, relu
from skipway.merges import MERGES, Merge, as_merge

B = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
S = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


class Branch(nn.Module):
    """A layer that puts out a given branch, so that only the merge is under test."""

    def forward(self, x):
        return x * 0 + B[: len(x)]


def merged(merge):
    return Chain(Branch(), wiring=[Shortcut(0, 1, merge=merge)], input=(4,))(S)


@pytest.mark.parametrize(
    ("merge", "expected"),
    [
        ("add", lambda b, s: b + s),
        ("mul", lambda b, s: b * s),
        ("mean", lambda b, s: (b + s) / 2),
        ("max", lambda b, s: torch.where(b > s, b, s)),
        ("cat", lambda b, s: torch.cat([b, s], -1)),
        (Cat(first="shortcut"), lambda b, s: torch.cat([s, b], -1)),
        (torch.sub, lambda b, s: b - s),
        (lambda b, s: 2 * b + 3 * s, lambda b, s: 2 * b + 3 * s),
    ],
)
def test_a_merge_takes_branch_and_shortcut_in_that_order(merge, expected):
    assert torch.equal(merged(merge), expected(B, S))


def test_gate_is_the_highway_equation():
    net = Skip(Branch(), merge=Gate(bias=-2.0), input=(4,)).double()
    gate = net.shortcuts["input->output"].merge.transform
    t = torch.sigmoid(S @ gate.weight.T + gate.bias)
    assert torch.equal(gate.bias.detach(), torch.full((4,), -2.0, dtype=torch.float64))
    assert torch.allclose(net(S), t * B + (1 - t) * S, rtol=0, atol=1e-12)


def test_gate_with_a_very_negative_bias_is_the_identity():
    net = Skip(Dense(4, 4), merge=Gate(bias=-1e4)).double()
    assert torch.equal(net(S), S)


def test_gate_of_images_is_a_convolution():
    net = Skip(Conv(3, 3, 3, padding=1), merge="gate", input=(3, 8, 8))
    gate = net.shortcuts["input->output"].merge.transform
    x = torch.randn(2, 3, 8, 8)
    t = torch.sigmoid(gate(x))
    assert isinstance(gate, nn.Conv2d)
    assert torch.allclose(net(x), t * net[0](x) + (1 - t) * x, atol=1e-6)


def test_highway_net_costs_twice_a_plain_layer():
    highway = Chain(Dense(64, 32), *[Skip(Dense(32, 32, torch.tanh), merge="gate") for _ in range(100)], Dense(32, 10))
    plain = Chain(Dense(64, 32), *[Dense(32, 32, torch.tanh) for _ in range(100)], Dense(32, 10))
    assert sum(p.numel() for p in highway.parameters()) == 213_610
    assert sum(p.numel() for p in plain.parameters()) == 108_010


# -- the axis of a concatenation ---------------------------------------------------------------------------------------


def test_cat_joins_vectors_and_tokens_on_the_last_axis():
    assert Skip(Dense(4, 5), merge="cat")(torch.ones(2, 4)).shape == (2, 9)
    assert Skip(Dense(4, 5), merge="cat")(torch.ones(2, 7, 4)).shape == (2, 7, 9)
    assert Skip(LayerNorm(4), merge="cat")(torch.ones(2, 7, 4)).shape == (2, 7, 8)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_cat_joins_images_on_axis_one(dims):
    net = Skip(Conv(4, 5, 3, padding=1, dims=dims), merge="cat", input=(4, *[9] * dims))
    assert net(torch.ones(2, 4, *[9] * dims)).shape == (2, 9, *[9] * dims)


def test_cat_follows_an_axis_that_is_said():
    net = Skip(Dense(4, 4), merge=Cat(axis=1), input=(7, 4))
    assert net(torch.ones(2, 7, 4)).shape == (2, 14, 4)
    negative = Skip(Dense(4, 4), merge=Cat(axis=-2), input=(7, 4))
    assert negative(torch.ones(2, 7, 4)).shape == (2, 14, 4)


def test_cat_keeps_the_axis_that_was_said_for_other_numbers_of_dimensions():
    net = Skip(Dense(4, 4), merge=Cat(axis=1))
    x = torch.randn(2, 4, 4)
    try:
        got = net(x)
    except ShapeError:
        return
    assert torch.equal(got, torch.cat([net[0](x), x], 1))


def test_cat_that_cannot_tell_its_axis_says_so():
    # a bare function over (N, 7, 4): nothing tells which axis holds the features
    with pytest.raises(ShapeError, match=r"(?s)cannot tell the feature axis.*Cat\(axis=1\)"):
        Chain(torch.tanh, wiring=[Shortcut(0, 1, merge="cat")], input=(7, 4))


def test_cat_of_two_layouts_is_refused():
    with pytest.raises(ShapeError, match=r"features on the last axis, the shortcut on the other|cannot tell"):
        Chain(Conv(4, 4, (1,)), LayerNorm(4), wiring=[Shortcut(1, 2, merge="cat")], input=(4, 4))


def test_cat_after_a_function_that_moves_the_axes_is_not_guessed():
    net = {"c": Conv(4, 8, (1,)), "t": lambda x: x.transpose(1, 2), "u": lambda x: x * 2}
    with pytest.raises(ShapeError, match="cannot tell the feature axis"):
        Chain(**net, wiring=[Shortcut("t", "u", merge="cat")], input=(4, 10))


def test_the_batch_is_no_axis_to_join_on():
    with pytest.raises(ChainError, match="axis 0 is the batch"):
        Cat(axis=0)
    with pytest.raises(ShapeError, match=r"Cat\(axis=2\) is outside"):
        Skip(Dense(4, 4), merge=Cat(axis=2))


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["add", "mul", "mean", "max", "gate"])
@pytest.mark.parametrize("width", [1, 3, 5])
def test_merges_of_equal_shapes_never_broadcast(word, width):
    with pytest.raises(ShapeError, match=rf"{word} needs equal shapes.*\(N, {width}\).*\(N, 4\)(?s:.*)project"):
        Chain(Dense(4, width), wiring=[Shortcut(0, 1, merge=word)])


def test_an_unknown_word_is_corrected():
    with pytest.raises(ChainError, match=r"no merge 'concat'.*Any callable"):
        Shortcut(0, 1, merge="concat")
    with pytest.raises(ChainError, match="did you mean 'mean'"):
        Shortcut(0, 1, merge="maen")


@pytest.mark.parametrize("merge", [3, None, [torch.add]])
def test_what_is_no_merge_is_refused(merge):
    with pytest.raises(ChainError, match="merge= takes a word"):
        Shortcut(0, 1, merge=merge)


@pytest.mark.parametrize(
    ("merge", "what"),
    [
        (lambda b, s: (b, s), "returns a tuple"),
        (lambda b, s: b.sum(), "single number"),
        (torch.relu, "takes 1 positional argument"),
    ],
)
def test_a_callable_that_does_not_merge_is_told_with_both_ends(merge, what):
    with pytest.raises(ShapeError, match=rf"(?s)'0->1' \(test_merges.py:\d+\).*{what}.*from 'input' \(N, 4\)"):
        Chain(Dense(4, 4), wiring=[Shortcut(0, 1, merge=merge)])


def test_a_merge_that_is_a_module_is_registered_once():
    class Weighted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.tensor(0.5))

        def forward(self, branch, shortcut):
            return self.w * branch + shortcut

    net = Chain(Dense(4, 4), wiring=[Shortcut(0, 1, merge=Weighted())])
    assert [n for n, _ in net.named_parameters()] == ["0.weight", "0.bias", "shortcuts.0->1.merge.w"]


def test_a_merge_class_stands_for_its_defaults():
    assert as_merge(Cat) == Cat()
    assert as_merge(Gate) == Gate()


def test_a_merge_of_ones_own_joins_in(x4):
    class Sub(Merge):
        def make(self, branch, shortcut):
            return torch.sub

    net = Chain(Dense(4, 4), wiring=[Shortcut(0, 1, merge=Sub())])
    assert torch.equal(net(x4), net[0](x4) - x4)
    with pytest.raises(ShapeError, match="sub needs equal shapes"):
        Chain(Dense(4, 1), wiring=[Shortcut(0, 1, merge=Sub())])


def test_the_words_of_the_vocabulary():
    assert set(MERGES) == {"add", "sub", "replace", "cat", "mean", "max", "mul", "gate", "weighted"}


def test_cat_then_linear_is_a_sum_of_projections():
    net = Chain(Skip(Dense(4, 4, relu), merge="cat"), Dense(..., 3)).double()
    w, b = net[1].weight, net[1].bias
    branch = net[0][0](S)
    assert torch.allclose(net(S), branch @ w[:, :4].T + S @ w[:, 4:].T + b, rtol=0, atol=1e-12)


# -- gradients ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("merge", [*MERGES, Cat(first="shortcut"), Gate(bias=0.0), torch.hypot])
def test_gradients_agree_with_finite_differences(merge):
    net = Chain(Dense(4, 4, torch.tanh), wiring=[Shortcut(0, 1, merge=merge, act=torch.tanh)]).double()
    assert torch.autograd.gradcheck(net, (S.clone().requires_grad_(),))
