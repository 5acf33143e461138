"""Traps that real libraries fell into. One named test each."""

import copy
import gc
import weakref

import pytest
import torch
from torch import Tensor, nn

from skipway import (
    BatchNorm,
    Chain,
    ChainError,
    Conv,
    Dense,
    DropPath,
    Flatten,
    LayerNorm,
    Learned,
    Project,
    ShapeError,
    Shortcut,
    Skip,
    dense,
    every,
    relu,
    tie,
)


def test_trap_parameters_created_in_the_first_forward(x4):
    net = Chain(
        Dense(4, 6, relu),
        Skip(Dense(..., 5), path="project"),
        Dense(..., 2),
        wiring=[Shortcut(0, 1, path="project", scale=Learned(0.1))],
    )
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5)  # before any forward
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    net(x4).pow(2).sum().backward()
    optimizer.step()
    assert sum(len(g["params"]) for g in optimizer.param_groups) == len(before) == len(list(net.parameters()))
    assert [name for name, p in net.named_parameters() if torch.equal(p, before[name])] == []


def test_trap_weights_shared_by_a_repeat():
    with pytest.raises(ChainError, match=r"(?s)'1' and '0' are the same Dense object.*tie"):
        Chain(*[Dense(4, 4)] * 3)
    with pytest.raises(ChainError, match="share"):
        Chain(Dense(4, 4), Dense(4, 4), wiring=every(1, path=nn.Linear(4, 4)))
    # a recipe makes a module for each place
    net = Chain(Dense(4, 4), Dense(4, 4), wiring=every(1, path=Project(always=True)))
    assert net.shortcuts["0->1"].path is not net.shortcuts["1->2"].path


def test_trap_slice_then_append_overwriting_a_layer(x4):
    net = Chain(*[Dense(4, 4) for _ in range(4)])
    part = net[2:]
    longer = part.insert(len(part), Dense(4, 4))
    assert len(longer) == 3
    assert longer[0] is net[2]
    assert longer[1] is net[3]
    assert list(longer.state_dict()) == [f"{i}.{n}" for i in range(3) for n in ("weight", "bias")]
    assert torch.equal(longer(x4), longer[2](net[3](net[2](x4))))


def test_trap_deepcopy_failing_after_a_forward(x4):
    net = Chain(Dense(4, 4), Skip(Dense(4, 4)), wiring=every(1, path=Project(always=True)))
    net(x4).sum().backward()
    net.features(x4, at=[1])
    assert torch.equal(copy.deepcopy(net)(x4), net(x4))


def test_trap_activations_kept_alive_after_forward():
    made = []

    class Watch(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            out = x + 1
            made.append(weakref.ref(out))
            return out

    net = Chain(*[Watch() for _ in range(4)], wiring=dense(), input=(4,))
    net(torch.ones(2, 4))
    made.clear()  # what the dry run made
    y = net(torch.ones(2, 4))
    gc.collect()
    assert len(made) == 4
    assert [r() for r in made] == [None] * 4
    del y


@pytest.mark.parametrize("merge", [lambda b, s: b.add_(s), lambda b, s: s.add_(b), lambda b, s: torch.add(b, s, out=b)])
def test_trap_a_merge_that_mutates_its_input(merge, x4):
    stem, layer = Dense(4, 4), Dense(4, 4)
    with torch.no_grad():
        try:
            net = Chain(stem, layer, wiring=[Shortcut(1, 2, merge=merge), Shortcut(1, 2, name="again")])
        except ChainError as error:
            assert "in place" in str(error) or "fails" in str(error)  # noqa: PT017 - refused, or right
            return
        h = stem(x4)
        assert torch.allclose(net(x4), layer(h) + h + h)


def test_trap_a_broadcast_hiding_a_wrong_width():
    for width in (1, 8):
        with pytest.raises(ShapeError, match=rf"\(N, {width}\).*\(N, 4\)"):
            Chain(Dense(4, width), wiring=every(1))
    with pytest.raises(ShapeError):
        Chain(Dense(4, 4), wiring=every(1))(torch.ones(3, 1))
    with pytest.raises(ShapeError, match="equal shapes"):
        Chain(nn.AdaptiveAvgPool2d(1), wiring=every(1), input=(3, 8, 8))


def test_trap_a_shortcut_dropped_in_silence_when_widths_differ(x4):
    with pytest.raises(ShapeError, match=r'add path="project"'):
        Skip(Dense(4, 6))
    net = Skip(Dense(4, 6), path="project")
    assert not torch.equal(net(x4), net[0](x4))


def test_trap_batch_norm_statistics_moved_by_shape_inference():
    norm = BatchNorm(8)
    net = Chain(Conv(3, 8, 3), norm, Flatten(), Dense(..., 2), input=(3, 8, 8)).train()
    net.build((3, 8, 8))
    str(net), net.plan
    assert torch.equal(norm.running_mean, torch.zeros(8))
    assert norm.num_batches_tracked == 0
    net(torch.randn(4, 3, 8, 8))
    assert norm.num_batches_tracked == 1


def test_trap_concat_on_the_wrong_axis_for_images():
    # square and as many channels as pixels, so that no other axis fails by itself
    net = Skip(Conv(8, 8, 3, padding=1), merge="cat", input=(8, 8, 8))
    x = torch.randn(2, 8, 8, 8)
    assert torch.equal(net(x), torch.cat([net[0](x), x], 1))
    tokens = Skip(LayerNorm(8), merge="cat", input=(8, 8))
    assert torch.equal(tokens(x[0]), torch.cat([tokens[0](x[0]), x[0]], -1))


def test_trap_a_dangling_shortcut_found_only_at_run_time():
    for wiring in ([Shortcut("a", "nowhere")], [Shortcut("nowhere", "a")], [Shortcut(0, 9)], [Shortcut("a.b", 1)]):
        with pytest.raises(ChainError, match="test_traps"):
            Chain(a=Dense(4, 4), b=Dense(4, 4), wiring=wiring)
        with pytest.raises(ChainError, match="test_traps"):
            Chain(a=Dense(..., 4), b=Dense(4, 4), wiring=wiring)  # also while the chain is open


@pytest.mark.parametrize("training", [True, False])
def test_trap_in_place_relu_before_an_add(training, x4):
    for layer in (nn.ReLU(inplace=True), nn.Dropout(0.5, inplace=True)):
        with pytest.raises(ShapeError, match=r"(?s)in place.*'stem'.*'stem->out'.*inplace=True"):
            Chain(stem=Dense(4, 4), act=layer, out=Dense(4, 4), wiring=[Shortcut("stem", "out")]).train(training)
    # harmless where nothing taps: the branch's own relu, and the relu after the merge
    net = Chain(Skip(Dense(4, 4, nn.ReLU(inplace=True)), act=nn.ReLU(inplace=True)))
    d = net[0][0]
    assert torch.equal(net(x4), (d(x4) + x4).relu())


def test_trap_two_shortcuts_of_one_name():
    with pytest.raises(ChainError, match=r"another shortcut of this name \(test_traps\.py:\d+\).*name="):
        Chain(Dense(4, 4), wiring=[Shortcut(0, 1), Shortcut(0, 1, merge="mul")])
    named = [Shortcut(0, 1, name="a"), Shortcut(0, 1, name="b", merge="mul")]
    assert len(Chain(Dense(4, 4), wiring=named).wiring) == 2
    # names that differ, but not as keys of the state dict
    slashed = [
        Shortcut("a.b", "c", path=Project(always=True)),
        Shortcut("a.b", "c", path=Project(always=True), name="a/b->c"),
    ]
    try:
        net = Chain(a=Chain(b=Dense(4, 4)), c=Dense(4, 4), wiring=slashed)
    except ChainError:
        return
    assert len(list(net.parameters())) == 6


def test_trap_a_shortcut_to_itself_or_backwards():
    for start, end, what in [
        (1, 1, "to itself"),
        (2, 1, "backwards"),
        ("b", "a", "backwards"),
        ("input", 0, "to itself"),
    ]:
        with pytest.raises(ChainError, match=what):
            Chain(a=Dense(4, 4), b=Dense(4, 4), wiring=[Shortcut(start, end)])


def test_trap_random_drop_where_there_is_no_shortcut(x4):
    with pytest.raises(ChainError, match="only path"):
        Chain(Dense(4, 4), DropPath(0.5))(x4)
    with pytest.raises(ChainError, match="only path"):
        Shortcut(0, 1, drop=0.5, merge="mul")
    net = Chain(Dense(4, 4), wiring=every(1, drop=0.5)).train()
    assert all((net(x4) - 0).abs().sum(1).gt(0).all() for _ in range(20))


def test_trap_the_same_layer_object_used_twice(x4):
    layer = Dense(4, 4)
    for make in (
        lambda: Chain(layer, layer),
        lambda: Chain(a=layer, b=Chain(c=layer)),
        lambda: Chain(Skip(layer), Skip(layer)),
        lambda: Chain(layer, Dense(4, 4)).insert(2, layer),
        lambda: Chain(layer, Dense(4, 4)).replace(1, layer),
    ):
        with pytest.raises(ChainError, match="same Dense object"):
            make()
    shared = tie(Dense(4, 4))
    assert torch.equal(Chain(shared, shared)(x4), shared(shared(x4)))
    # what holds nothing can be used as often as one likes
    assert Chain(relu, relu, nn.ReLU(), (act := nn.Tanh()), act)(x4).shape == (3, 4)


def test_trap_nested_chains_with_equal_names(x4):
    net = Chain(
        left=Chain(a=Dense(4, 4), b=Dense(4, 4)),
        right=Chain(a=Dense(4, 4), b=Dense(4, 4)),
        wiring=[Shortcut("left.a", "right.a"), Shortcut("left.b", "right.b")],
    )
    la = net["left.a"](x4)
    lb = net["left.b"](la)
    ra = net["right.a"](lb) + la
    assert torch.equal(net(x4), net["right.b"](ra) + lb)
    # by position, and one name a prefix of another
    other = Chain(Chain(Dense(4, 4), Dense(4, 4)), Chain(Dense(4, 4), Dense(4, 4)), wiring=[Shortcut("0.0", "1.0")])
    h = other["0.0"](x4)
    assert torch.equal(other(x4), other["1.1"](other["1.0"](other["0.1"](h)) + h))


def test_trap_a_shortcut_out_of_a_nested_chain(x4):
    net = Chain(enc=Chain(a=Dense(4, 4), b=Dense(4, 4, relu)), dec=Dense(4, 4), wiring=[Shortcut("enc.a", "dec")])
    a = net["enc.a"](x4)
    assert torch.equal(net(x4), net["dec"](net["enc.b"](a)) + a)
    with pytest.raises(ChainError, match=r"no value 'enc\.c'"):
        Chain(enc=Chain(a=Dense(4, 4)), dec=Dense(4, 4), wiring=[Shortcut("enc.c", "dec")])
    with pytest.raises(ChainError, match="Sequential: only the values of a Chain have names"):
        Chain(enc=nn.Sequential(Dense(4, 4)), dec=Dense(4, 4), wiring=[Shortcut("enc.0", "dec")])


def test_trap_empty_chain(x4):
    net = Chain()
    assert net(x4) is x4
    assert len(net) == 0
    assert bool(net)
    assert list(net.parameters()) == []
    assert torch.equal(net.features(x4, at=["input", "output"])["output"], x4)
    str(net), repr(net), copy.deepcopy(net)
    assert torch.equal(Chain(Dense(4, 4), Chain())(x4).detach() * 0, torch.zeros(3, 4))
    with pytest.raises(ChainError):
        Chain(wiring=[Shortcut(0, 1)])
    with pytest.raises(ChainError):
        Chain(wiring=every(1))


def test_trap_single_layer(x4):
    net = Chain(Dense(4, 4))
    assert torch.equal(net(x4), net[0](x4))
    skip = Chain(Dense(4, 4), wiring=every(1))
    assert torch.equal(skip(x4), skip[0](x4) + x4)
    assert torch.equal(skip[:1](x4), skip(x4))


def test_trap_a_layer_that_returns_a_tuple(x4):
    with pytest.raises(ShapeError, match=r"returns a tuple of 2; a chain carries one tensor: wrap it"):
        Chain(Dense(4, 4), nn.LSTM(4, 4))
    lstm = nn.LSTM(4, 4)
    net = Chain(Dense(4, 4), lambda x: lstm(x)[0], wiring=every(1))
    assert len(list(net.parameters())) == 6
    h = net[0](x4) + x4
    assert torch.equal(net(x4), lstm(h)[0] + h)


def test_trap_batch_of_one():
    net = Chain(Dense(4, 4), Skip(Dense(4, 4), merge="gate"), Dense(4, 4), wiring=dense())
    x = torch.randn(5, 4)
    rows = torch.cat([net(x[i : i + 1]) for i in range(5)])
    assert torch.allclose(rows, net(x), atol=1e-6)
    images = Chain(Conv(3, 4, 3, padding=1), Skip(Conv(4, 4, 3, padding=1), merge="cat"), input=(3, 6, 6))
    assert images(torch.randn(1, 3, 6, 6)).shape == (1, 8, 6, 6)
    assert net(x[:0]).shape == (0, 4)


@pytest.mark.parametrize("merge", ["add", "cat", "mean", "max", "mul", "gate"])
def test_trap_dtype_mix_under_autocast(merge, x4):
    # the branch is bfloat16, the shortcut that starts at the input float32
    net = Chain(Dense(4, 4), Dense(4, 4), wiring=[Shortcut(0, 2, merge=merge, scale=Learned(0.5))])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = net(x4)
    assert torch.allclose(out.float(), net(x4), atol=0.1)
    out.float().sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in net.parameters())


def test_trap_a_merge_called_twice(x4):
    calls = []

    def merge(branch: Tensor, shortcut: Tensor) -> Tensor:
        calls.append("merge")
        return branch + shortcut

    def path(x: Tensor) -> Tensor:
        calls.append("path")
        return x

    net = Chain(Dense(4, 4), wiring=[Shortcut(0, 1, merge=merge, path=path)])
    net(x4)
    calls.clear()
    net(x4)
    assert calls == ["path", "merge"]


def test_trap_projection_computed_on_the_wrong_axis():
    # width, height and channels all differ
    net = Skip(Conv(3, 5, 3, stride=2, padding=1), path="project", input=(3, 8, 12))
    assert net.shortcuts["input->output"].path.weight.shape == (5, 3, 1, 1)
    tokens = Skip(Dense(4, 6), path="project", input=(9, 4))
    assert tokens.shortcuts["input->output"].path.weight.shape == (6, 4)
    sequence = Skip(Conv(4, 6, (3,), padding=1), path="project", input=(4, 9))
    assert sequence.shortcuts["input->output"].path.weight.shape == (6, 4, 1)
    with pytest.raises(ShapeError, match="feature"):
        Chain(torch.tanh, lambda x: x[..., :2], wiring=[Shortcut(0, 2, path="project")], input=(9, 4))


@pytest.mark.parametrize(
    "name", ["forward", "train", "wiring", "parameters", "to", "shortcuts", "plan", "_modules", "_run"]
)
def test_trap_names_that_collide_with_module_attributes(name):
    with pytest.raises(ChainError, match=f"{name!r}"):
        Chain({name: Dense(4, 4)})
