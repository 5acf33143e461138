"""A graph of operators as straight-line code: the same numbers, in memory that is shared where nobody looks."""

import operator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

from skipway.train.graphs import in_place, into, pool_before_relu, quickest, simplify, writes
from skipway.train.straight import Straight, Unfit

A = torch.ops.aten


def recorded(step, parameters, x, y):
    """``(straight, what step gives)`` for a function of ``(parameters, x, y)``."""
    made = make_fx(step)(parameters, x, y)
    with torch.no_grad():
        straight = Straight(made.graph, [p.detach() for p in parameters], (x, y), parameters, made)
    return straight, step(parameters, x, y)


def played(straight, x, y):
    with torch.no_grad():
        output, loss, gradients = straight.call(x, y)
    return [output, loss, *gradients]


def with_gradients(value):
    """A step that gives what ``value`` gives, ``(output, loss)``, and the gradients of all parameters."""

    def step(parameters, x, y):
        output, loss = value(parameters, x, y)
        return [output, loss, *torch.autograd.grad(loss, parameters, allow_unused=True)]

    return step


def same(left, right):
    return all(a is b is None or torch.equal(a, b) for a, b in zip(left, right, strict=True))


#: layers of width 4, each a function of its input and a weight
LAYERS = {
    "dense": lambda h, w: h @ w,
    "relu": lambda h, w: torch.relu(h @ w),
    "tanh": lambda h, w: torch.tanh(h) * w[0],
    "skip": lambda h, w: h + torch.relu(h @ w),
    "twice": lambda h, w: h * h + h.t().contiguous().t() @ w,
    "own transpose": lambda h, w: h[:4] @ w + h[:4].t() if h.shape[0] == 4 else h @ w,
    "cat": lambda h, w: torch.cat([h, torch.sigmoid(h)], 1) @ torch.cat([w, w]),
    "split": lambda h, w: torch.cat([part @ w[:2] for part in h.split(2, 1)], 1)[:, :4],
    "norm": lambda h, w: nn.functional.layer_norm(h, (4,), w[0], w[1]),
    "softmax": lambda h, w: torch.softmax(h @ w, 1),
    "gelu": lambda h, w: nn.functional.gelu(h) + w[2],
    "in place": lambda h, w: (h @ w).mul_(2.0).relu_(),
    "mean": lambda h, w: h - h.mean(0, keepdim=True) + w.mean(),
    "broadcast": lambda h, w: h * w[0].expand_as(h),
    "view": lambda h, w: (h.reshape(2, -1, 4) + w[0]).flatten(0, 1),
    "chosen": lambda h, w: torch.where(h > 0, h, w[0] * h),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_every_layer_gives_the_same_to_the_last_bit(kind):
    check([kind, kind], 4)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(sorted(LAYERS)), min_size=1, max_size=6), st.sampled_from([4, 6]))
def test_any_net_gives_the_same_to_the_last_bit(kinds, rows):
    check(kinds, rows)


def check(kinds, rows):
    """Layer upon layer, with a shortcut from the first value to the last; also when it is called again."""
    torch.manual_seed(0)
    parameters = [torch.randn(4, 4, requires_grad=True) for _ in kinds]
    x, y = torch.randn(rows, 4), torch.randn(rows, 4)

    def value(parameters, x, y):
        h = first = x * 1.0
        for kind, w in zip(kinds, parameters, strict=True):
            h = LAYERS[kind](h, w)
        h = h + first
        return h, (h - y).square().mean()

    straight, expected = recorded(with_gradients(value), parameters, x, y)
    assert same(played(straight, x, y), expected)
    x2, y2 = torch.randn(rows, 4), torch.randn(rows, 4)
    assert same(played(straight, x2, y2), with_gradients(value)(parameters, x2, y2))
    assert same(played(straight, x, y), expected)


def test_gradients_do_not_share_memory_and_lie_as_their_parameters_do():
    a, b = torch.randn(3, 2, requires_grad=True), torch.randn(2, 3).t().requires_grad_()
    x, y = torch.randn(5, 3), torch.randn(5, 2)
    # the same gradient for both, and one that is spread out from a number
    step = with_gradients(lambda p, x, y: (x, (p[0] + p[1]).sum()))
    straight, expected = recorded(step, [a, b], x, y)
    _, _, first, second = played(straight, x, y)
    assert same([first, second], expected[2:])
    assert first.untyped_storage().data_ptr() != second.untyped_storage().data_ptr()
    assert first.stride() == a.stride()
    assert second.stride() == b.stride()


def test_a_parameter_that_is_not_used_has_no_gradient():
    used, unused = torch.randn(2, requires_grad=True), torch.randn(2, requires_grad=True)
    step = with_gradients(lambda p, x, y: (x * p[0], (x * p[0]).sum()))
    straight, _ = recorded(step, [used, unused], torch.randn(3, 2), torch.randn(3))
    assert played(straight, torch.ones(3, 2), torch.ones(3))[3] is None


def test_the_loss_of_a_step_outlives_the_next():
    w = torch.ones(2, 2, requires_grad=True)
    step = with_gradients(lambda p, x, y: (x @ p[0], (x @ p[0]).sum()))
    straight, _ = recorded(step, [w], torch.ones(1, 2), torch.ones(1))
    losses = [played(straight, torch.full((1, 2), float(i)), torch.ones(1))[1] for i in range(3)]
    assert [loss.item() for loss in losses] == [0.0, 4.0, 8.0]


def test_weights_are_read_where_they_are():
    w = torch.ones(2, 2, requires_grad=True)
    step = with_gradients(lambda p, x, y: (x @ p[0].t(), (x @ p[0].t()).sum()))
    straight, _ = recorded(step, [w], torch.ones(1, 2), torch.ones(1))
    with torch.no_grad():
        w.mul_(3.0)
    assert played(straight, torch.ones(1, 2), torch.ones(1))[1].item() == 12.0


def test_memory_is_used_again():
    """Twenty layers of one width need no more memory than three, but for what the backward reads."""

    def bytes_of(depth):
        parameters = [torch.randn(8, 8, requires_grad=True) for _ in range(depth)]

        def forward(parameters, x, y):
            h = x
            for w in parameters:
                h = h @ w.detach() + 1.0
            return h, (h * parameters[0].sum()).sum()

        def step(parameters, x, y):
            output, loss = forward(parameters, x, y)
            return [output, loss, *torch.autograd.grad(loss, parameters[:1]), *[None] * (depth - 1)]

        return recorded(step, parameters, torch.randn(64, 8), torch.randn(64, 8))[0].bytes

    assert bytes_of(20) == bytes_of(3)


def test_views_of_what_stays_are_made_once():
    w = torch.randn(4, 4, requires_grad=True)
    step = with_gradients(lambda p, x, y: (x @ p[0].t(), (x @ p[0].t()).square().sum()))
    straight, _ = recorded(step, [w], torch.randn(3, 4), torch.randn(3, 4))
    assert " t(" not in straight.code
    assert "view" not in straight.code


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(2, 2, 0), (3, 2, 1), (3, 1, 1)])
@pytest.mark.parametrize("last", [False, True])
def test_relu_after_a_max_pooling_is_relu_before_it(kernel, stride, padding, last):
    """Also where windows overlap, where they hold nothing above zero, and where values tie."""
    torch.manual_seed(0)
    w = torch.randn(4, 2, 3, 3, requires_grad=True)
    x = torch.randn(3, 2, 8, 8).round()  # whole numbers: many ties
    if last:
        x = x.contiguous(memory_format=torch.channels_last)

    def value(p, x, y):
        h = torch.relu(nn.functional.conv2d(x, p[0].round() - 1.0 + (p[0] - p[0].detach()), padding=1))
        pooled = nn.functional.max_pool2d(h, kernel, stride, padding)
        return pooled, (pooled * pooled).sum()

    straight, expected = recorded(with_gradients(value), [w], x, torch.zeros(3))
    lines = straight.code.splitlines()
    assert ["relu" in line for line in lines].index(True) > ["max_pool" in line for line in lines].index(True)
    assert same(played(straight, x, torch.zeros(3)), expected)
    assert expected[2].abs().sum() > 0


def test_relu_stays_where_something_else_reads_it():
    w = torch.randn(4, 2, 3, 3, requires_grad=True)
    x = torch.randn(3, 2, 8, 8)

    def value(p, x, y):
        h = torch.relu(nn.functional.conv2d(x, p[0], padding=1))
        return h, nn.functional.max_pool2d(h, 2).sum() + h.mean()

    straight, expected = recorded(with_gradients(value), [w], x, torch.zeros(3))
    lines = straight.code.splitlines()
    assert ["relu" in line for line in lines].index(True) < ["max_pool" in line for line in lines].index(True)
    assert same(played(straight, x, torch.zeros(3)), expected)


def test_random_numbers_are_drawn_anew_in_the_same_order():
    w = torch.ones(6, 6, requires_grad=True)
    step = with_gradients(
        lambda p, x, y: ((h := nn.functional.dropout(x @ p[0], 0.5)) + torch.rand(6), (h * torch.rand(6)).sum())
    )
    x, y = torch.ones(4, 6), torch.ones(4)
    straight, _ = recorded(step, [w], x, y)
    torch.manual_seed(1)
    expected = [step([w], x, y) for _ in range(2)]
    torch.manual_seed(1)
    for wanted in expected:
        assert same(played(straight, x, y), wanted)
    assert not torch.equal(expected[0][0], expected[1][0])


def test_constants_of_the_net_are_taken_along():
    table = torch.tensor([1.0, 2.0])
    w = torch.ones(2, requires_grad=True)
    step = with_gradients(lambda p, x, y: (x, (p[0] * torch.tensor([3.0, 4.0]) * table).sum()))
    straight, expected = recorded(step, [w], torch.ones(2), torch.ones(2))
    assert same(played(straight, torch.ones(2), torch.ones(2)), expected)
    assert expected[2].tolist() == [3.0, 8.0]


def test_what_writes_elsewhere_is_refused():
    graph = torch.fx.Graph()
    w, x, y = (graph.placeholder(name) for name in "wxy")
    made = graph.call_function(A.add.out, (x, x), {"out": y})
    loss = graph.call_function(A.sum.default, (made,))
    graph.output([made, loss, w])
    held = torch.ones(2)
    with pytest.raises(Unfit, match="writes elsewhere"):
        Straight(graph, [held], (torch.ones(2), torch.ones(2)), [held])


# -- what operators are ------------------------------------------------------------------------------------------------


def test_forms_of_operators():
    assert into(A.addmm.default) is A.addmm.out
    assert into(A.threshold_backward.default) is A.threshold_backward.grad_input
    assert into(A.relu.default) is None  # torch generated one, which copies
    assert in_place(A.add.Tensor) is A.add_.Tensor
    assert in_place(A.mm.default) is None
    assert writes(A.add_.Tensor)
    assert not writes(A.add.Tensor)
    assert quickest(A.mm.out, ["out"]) is torch.mm
    assert quickest(A.threshold_backward.grad_input, ["grad_input"]) is A.threshold_backward.grad_input


def test_simplify_takes_out_what_computes_nothing_and_leaves_what_acts():
    def step(x):
        torch.rand(2)  # draws
        x.exp()  # is not used
        return x.t().t().detach() + 1

    graph = make_fx(step)(torch.ones(2, 2)).graph
    simplify(graph)
    assert [str(n.target) for n in graph.nodes if n.op == "call_function"] == ["aten.rand.default", "aten.add.Tensor"]


def test_pool_before_relu_leaves_a_graph_without_pools_alone():
    graph = make_fx(lambda x: torch.relu(x))(torch.ones(2)).graph
    before = [str(n.target) for n in graph.nodes]
    pool_before_relu(graph)
    assert [str(n.target) for n in graph.nodes] == before
    assert operator.getitem not in [n.target for n in graph.nodes]
