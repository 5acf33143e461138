"""The dense block engine gives what the generated code gives: outputs, gradients, running statistics."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from skipway import BatchNorm, Cat, Chain, Conv, Shortcut, dense, relu
from skipway.engines import kernel, norms, use_engines
from skipway.zoo.densenet import cifar_densenet

NORMS = nn.modules.batchnorm._BatchNorm


def layer(growth, narrow=0, kernel=3, bias=False, dilation=1):
    before = [BatchNorm(), relu, Conv(..., narrow, 1, bias=bias)] if narrow else []
    same = {"padding": dilation * (kernel // 2), "dilation": dilation}
    return Chain(*before, BatchNorm(eps=1e-3), relu, Conv(..., growth, kernel, bias=bias, **same))


def block(*layers, width=3, size=4, gammas=(), seed=0, dtype=torch.float64):
    """A dense block whose norms are anything but fresh; ``gammas`` are dealt out to their channels in turn."""
    torch.manual_seed(seed)
    net = Chain(*layers, wiring=dense(merge=Cat(first="shortcut"))).build((width, size, size)).to(dtype)
    dealt = 0
    with torch.no_grad():
        for norm in (m for m in net.modules() if isinstance(m, NORMS)):
            nn.init.normal_(norm.weight, 0.5)
            nn.init.normal_(norm.bias)
            nn.init.normal_(norm.running_mean)
            if gammas:
                turned = [gammas[(dealt + i) % len(gammas)] for i in range(len(norm.weight))]
                norm.weight.copy_(torch.tensor(turned, dtype=dtype))
                dealt += len(turned)
    return net


def twins(net, mode="keep"):
    """The net on the engine, and a copy of it on the generated code."""
    plain = copy.deepcopy(net)
    use_engines(net, mode)
    use_engines(plain, "off")
    return net, plain


def on_engine(value):
    """Whether the engine made a value."""
    return type(value.grad_fn).__name__ == "DenseBlockBackward"


def step(net, x, needs=True):
    """Everything that one forward and backward make, by name."""
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_(needs)
    out = net(x)
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(out.dtype)
    (out * weights).sum().backward()
    grads = {f"d {n}": p.grad for n, p in net.named_parameters()}
    return out, {"out": out.detach(), "d input": x.grad, **grads, **dict(net.named_buffers())}


def assert_same(mine, theirs, tolerance=1e-12):
    """Equal up to rounding of the largest value of each tensor, or of all where a tensor is nothing but rounding."""
    assert mine.keys() == theirs.keys()
    largest = max(float(t.abs().max()) for n, t in theirs.items() if n.startswith("d ") and t is not None)
    for name, want in theirs.items():
        got = mine[name]
        if want is None:
            assert got is None, name
        elif not want.is_floating_point():
            assert torch.equal(got, want), name
        else:
            assert got.shape == want.shape, name
            own = float(want.abs().max())
            # what should be 0 (behind a channel that is constant, say) is rounding of what was far larger
            scale = max(own, 1e-2 * largest) if own > 1e-9 * largest else largest
            assert float((got - want).abs().max()) <= tolerance * scale, name


def spread(x):
    """The same values, neither contiguous nor channels last."""
    return torch.stack((x, x), -1)[..., 0]


def channels_last(x):
    return x.contiguous(memory_format=torch.channels_last)


LAYERS = st.builds(
    layer,
    growth=st.integers(1, 4),
    narrow=st.sampled_from((0, 1, 5)),
    kernel=st.sampled_from((1, 3, 5)),
    bias=st.booleans(),
    dilation=st.integers(1, 2),
)


@settings(max_examples=30)
@given(
    layers=st.lists(LAYERS, min_size=2, max_size=4),
    width=st.integers(1, 5),
    images=st.integers(2, 3),
    size=st.tuples(st.integers(3, 5), st.integers(3, 5)),
    gammas=st.lists(st.sampled_from((0.0, 1e-8, -1e-8, 1.0, -0.7, 0.3)), max_size=3),
    mode=st.sampled_from(("keep", "recompute")),
    tile=st.sampled_from((1, 200, 1000, kernel.TILE_BYTES)),
    layout=st.sampled_from((torch.clone, spread, channels_last)),
    needs=st.booleans(),
)
def test_any_block_gives_what_the_generated_code_gives(layers, width, images, size, gammas, mode, tile, layout, needs):
    net, plain = twins(block(*layers, width=width, gammas=gammas), mode)
    before, kernel.TILE_BYTES = kernel.TILE_BYTES, tile
    try:
        for _ in range(2):  # gradients add up, statistics move on from where they were
            x = layout(torch.randn(images, width, *size, dtype=torch.float64))
            (out, mine), (other, theirs) = step(net, x, needs), step(plain, x, needs)
            assert on_engine(out)
            assert not on_engine(other)
            assert_same(mine, theirs)
    finally:
        kernel.TILE_BYTES = before


@pytest.mark.parametrize("bottleneck", [False, True])
@pytest.mark.parametrize("mode", ["keep", "recompute"])
def test_a_whole_net(bottleneck, mode):
    net, plain = twins(cifar_densenet(4 + 3 * 3 * (1 + bottleneck), 5, bottleneck).double(), mode)
    assert [use.refusal for use in net.engines] == [""] * 3
    for shape in ((3, 3, 8, 8), (2, 3, 12, 16), (1, 3, 8, 8)):  # also different image sizes in one life
        x = torch.randn(shape, dtype=torch.float64)
        (_, mine), (_, theirs) = step(net, x), step(plain, x)
        assert_same(mine, theirs, 1e-11 if shape[0] == 1 else 1e-12)  # 4 pixels a channel in the last block


@pytest.mark.parametrize("mode", ["keep", "recompute"])
@pytest.mark.parametrize("gammas", [(1.0, 1.5), (1.0, -1.5), (1.0, 1e-3)])
def test_scales_move_into_the_convolution_where_all_are_positive_and_none_is_small(gammas, mode, monkeypatch):
    moved, ramp = set(), norms.Norm.ramp

    def watched(norm, *given):
        moved.add(norm.scale is not None)
        return ramp(norm, *given)

    monkeypatch.setattr(norms.Norm, "ramp", watched)
    made = block(layer(3, 5, bias=True), layer(12, 7), layer(4, 5), gammas=gammas)
    with torch.no_grad():
        for norm in (m for m in made.modules() if isinstance(m, NORMS)):
            norm.bias.clamp_(-2, 2)
    net, plain = twins(made, mode)
    x = torch.randn(3, 3, 4, 4, dtype=torch.float64)
    assert_same(step(net, x)[1], step(plain, x)[1])
    assert moved == {min(gammas) >= 1}


@pytest.mark.parametrize("width", [1, 5, 12, 24, 48, 60])
def test_statistics_from_tiles_of_few_and_many_columns(width):
    x = torch.randn(31, width, dtype=torch.float64) + 5
    collected = norms.Moments()
    for tile in x.split([8, 6, 1, 16]):
        collected.add(tile)
    var, mean = torch.var_mean(x, 0, correction=0)
    torch.testing.assert_close(collected.result(), (mean, var), rtol=1e-13, atol=0)


def test_a_block_between_layers_of_a_chain_and_shortcuts_past_it():
    torch.manual_seed(0)
    join = {"merge": Cat(first="shortcut"), "tap": "branch"}
    net = Chain(
        stem=Conv(3, 4, 3, padding=1), a=layer(2, 3), b=layer(3), c=layer(2, 4),
        head=Conv(..., 5, 1), end=Conv(5, 5, 1),
        wiring=[
            Shortcut("stem", "a", **join), Shortcut("a", "b", **join), Shortcut("stem", "b", **join),
            Shortcut("b", "c", **join), Shortcut("a", "c", **join), Shortcut("stem", "c", **join),
            Shortcut("c", "head", path="project"), Shortcut("stem", "end", path="project"),
        ],
        input=(3, 6, 6),
    ).double()  # fmt: skip
    assert [(use.where, use.refusal) for use in net.engines] == [("a..c", "")]
    net, plain = twins(net)
    x = torch.randn(3, 3, 6, 6, dtype=torch.float64)
    assert_same(step(net, x)[1], step(plain, x)[1])


@pytest.mark.parametrize("mode", ["keep", "recompute"])
def test_gradients_against_differences(mode):
    net = block(layer(2, 3, bias=True), layer(1), width=2, size=3, gammas=(0.9, 0.0, -0.4))
    use_engines(net, mode)
    names = [name for name, _ in net.named_parameters()]

    def call(x, *given):
        out = torch.func.functional_call(net, dict(zip(names, given, strict=True)), (x,))
        assert on_engine(out)
        return out

    x = torch.randn(2, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    given = [p.detach().clone().requires_grad_() for p in net.parameters()]
    assert torch.autograd.gradcheck(call, (x, *given), fast_mode=mode == "recompute")


def test_single_precision_is_as_near_to_the_truth_as_the_generated_code():
    for gammas in ((), (1e-4, 1.0)):
        truth = block(layer(4, 8), layer(4, 8), layer(4, 8), width=6, size=8, gammas=gammas)
        for norm in (m for m in truth.modules() if isinstance(m, NORMS)):
            nn.init.constant_(norm.bias, 3.0)  # no relu changes its side by rounding
            norm.weight.data.clamp_(-0.5, 0.5)
        net, plain = twins(copy.deepcopy(truth).float())
        use_engines(truth, "off")
        x = torch.randn(8, 6, 8, 8, dtype=torch.float64)
        exact = step(truth, x)[1]
        mine, theirs = step(net, x.float())[1], step(plain, x.float())[1]
        names = [name for name, t in exact.items() if name.startswith("d ")]
        off, usual = (max(float((got[n].double() - exact[n]).norm()) for n in names) for got in (mine, theirs))
        assert off <= 6 * usual
        assert off <= 1e-5 * max(float(exact[n].norm()) for n in names)


def test_momentum_none_averages_over_all_batches_and_norms_may_keep_no_statistics():
    net = block(layer(2, 3), layer(2, 3))
    net[0][0].momentum = None
    net[1][3].momentum = 0.7
    first = net[1][0]
    first.track_running_stats, first.running_mean, first.running_var = False, None, None
    net, plain = twins(net)
    for _ in range(3):
        x = torch.randn(4, 3, 4, 4, dtype=torch.float64)
        (out, mine), (_, theirs) = step(net, x), step(plain, x)
        assert on_engine(out)
        assert_same(mine, theirs)


def test_frozen_parameters_get_no_gradient_and_the_others_theirs():
    net = block(layer(2, 3), layer(2, 3), layer(2))
    for name, p in net.named_parameters():
        p.requires_grad_(not name.startswith("0.") and not name.endswith("2.weight"))
    net, plain = twins(net)
    x = torch.randn(4, 3, 4, 4, dtype=torch.float64)
    for needs in (True, False):
        (out, mine), (_, theirs) = step(net, x, needs), step(plain, x, needs)
        assert on_engine(out)
        assert_same(mine, theirs)
        assert mine["d 0.0.weight"] is None
        assert (mine["d input"] is not None) == needs


def test_channels_that_hardly_vary_get_the_gradients_they_should():
    """Where the variance is far below eps, a quotient would leave nothing of dgamma: 0 for a constant channel."""
    truth = block(layer(3, 4), layer(3), width=4, size=8, gammas=(1.0,))
    net, plain = twins(copy.deepcopy(truth).float())
    use_engines(truth, "off")
    x = 1e-6 * torch.randn(4, 4, 8, 8, dtype=torch.float64)
    x[:, 1] = 0.3
    exact, mine, theirs = step(truth, x)[1], step(net, x.float())[1], step(plain, x.float())[1]
    for name in ("d 0.0.weight", "d 0.0.bias", "d input"):
        off, usual = (float((got[name] - exact[name]).norm() / exact[name].norm()) for got in (mine, theirs))
        assert off <= 4 * usual + 1e-6, (name, off, usual)
    assert mine["d 0.0.weight"][1] == theirs["d 0.0.weight"][1] == 0


@pytest.mark.parametrize("bottleneck", [False, True])
def test_memory_is_linear_in_depth(bottleneck):
    """What is kept for the backward, to the byte; the generated code keeps every concatenation."""

    def kept(depth, mode):
        net = block(*[layer(2, 8 * bottleneck) for _ in range(depth)], width=4)
        use_engines(net, mode)
        own, seen = {p.data_ptr() for p in net.parameters()}, {}

        def pack(t):
            seen[t.untyped_storage().data_ptr()] = t.untyped_storage()
            return t

        x = torch.randn(4, 4, 8, 8, dtype=torch.float64)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            out = net(x)
        total = sum(s.nbytes() for at, s in seen.items() if at not in own and at != x.data_ptr())
        return total, out.shape[0] * out.shape[2] * out.shape[3] * 8

    for mode in ("keep", "recompute", "off"):
        (a, _), (b, _), (c, column) = (kept(depth, mode) for depth in (4, 8, 12))
        grows = c - 2 * b + a
        if mode == "off":
            assert grows >= 2 * 4 * 4 * 2 * column  # the inputs of norm and convolution of every layer
        else:
            assert grows == 0
            # 2 channels a layer, and 8 of its bottleneck if it is kept; beside that statistics, a few numbers each
            channels = 2 + 8 * (bottleneck and mode == "keep")
            assert 0 <= (c - b) - 4 * channels * column <= 4 * (2 * 2 + 2 * 8) * 8
