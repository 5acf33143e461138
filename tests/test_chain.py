import contextlib
import copy
import gc
import pickle
import weakref

import pytest
import torch
from torch import Tensor, nn

from skipway import (
    BatchNorm,
    CatSkip,
    Chain,
    ChainError,
    Conv,
    Dense,
    Flatten,
    GlobalAvgPool,
    IdentitySkip,
    Learned,
    MaxPool,
    OpenChainError,
    ShapeError,
    Shortcut,
    Skip,
    dense,
    every,
    relu,
    tanh,
)


def crossing():
    """Two shortcuts that cross: what nesting cannot say."""
    return Chain(
        stem=Dense(4, 6, relu),
        a=Dense(6, 6, tanh),
        b=Dense(6, 6, relu),
        head=Dense(6, 2),
        wiring=[Shortcut("stem", "b"), Shortcut("input", "a", path="project")],
    )


# -- an ordinary module ------------------------------------------------------------------------------------------------


def test_a_plain_chain_is_a_sequential(x4):
    torch.manual_seed(1)
    ours = Chain(Dense(4, 5), nn.BatchNorm1d(5), relu, Dense(5, 2))
    torch.manual_seed(1)
    theirs = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 2))
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert torch.equal(ours(x4), theirs(x4))
    theirs.load_state_dict(ours.state_dict())
    ours.load_state_dict(theirs.state_dict())


def test_what_shortcuts_own_is_under_their_names():
    net = Chain(
        Dense(4, 5),
        enc=Chain(d=Dense(5, 3)),
        wiring=[Shortcut(0, 1, path="project"), Shortcut(0, "enc.d", path="project", scale=Learned())],
    )
    assert set(net.state_dict()) == {
        "0.weight",
        "0.bias",
        "enc.d.weight",
        "enc.d.bias",
        "shortcuts.0->1.path.weight",
        "shortcuts.0->enc/d.path.weight",
        "shortcuts.0->enc/d.scale",
    }


def test_layers_may_be_modules_callables_and_objects(x4):
    class Twice:
        def __call__(self, x: Tensor) -> Tensor:
            return 2 * x

    net = Chain(nn.Linear(4, 4), torch.tanh, lambda x: x + 1, Twice())
    assert torch.equal(net(x4), 2 * (torch.tanh(net[0](x4)) + 1))


def test_len_iteration_and_items():
    layers = [Dense(4, 4), relu, Dense(4, 4)]
    net = Chain(layers[0], layers[1], last=layers[2])
    assert len(net) == 3
    assert all(a is b for a, b in zip(net, layers, strict=True))
    assert net[0] is layers[0]
    assert net[-1] is layers[2]
    assert net["last"] is layers[2]
    assert net["1"] is relu
    assert net.last is layers[2]
    assert bool(Chain())


def test_items_that_are_not_there():
    net = Chain(stem=Dense(4, 4))
    with pytest.raises(KeyError, match="no layer 'stme': did you mean 'stem'"):
        net["stme"]
    with pytest.raises(IndexError, match="there is no layer 3"):
        net[3]
    with pytest.raises((TypeError, KeyError, ChainError)):
        net[0.5]
    assert Chain(enc=Chain(a=Dense(4, 4)))["enc.a"].out_features == 4


def test_a_dict_gives_names_that_are_no_words(x4):
    net = Chain({"conv 1": Dense(4, 4), "a-b": Dense(4, 4), "class": Dense(4, 4)}, wiring=[Shortcut("conv 1", "class")])
    h = net[0](x4)
    assert torch.equal(net(x4), net[2](net[1](h)) + h)


@pytest.mark.parametrize(
    "name",
    [
        "forward",
        "plan",
        "wiring",
        "training",
        "shortcuts",
        "parameters",
        "_keys",
        "_plan",
        "_verified",
        "_run",
        "_open",
        "_form",
        "_features",
        "_wiring",
        "input.x",
        "output",
        "",
    ],
)
def test_names_that_would_hide_something_are_refused(name):
    with pytest.raises(ChainError, match="name"):
        Chain({name: Dense(4, 4)})


@pytest.mark.parametrize("name", ["x", "layer", "edge", "torch", "F", "weight", "scale", "shortcut", "same", "stem_"])
def test_names_of_the_generated_code_are_free_to_use(name, x4):
    net = Chain({name: Dense(4, 4), "other": Dense(4, 4)}, wiring=[Shortcut(name, "other", path=torch.sin)])
    h = net[0](x4)
    assert torch.equal(net(x4), net[1](h) + torch.sin(h))


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: Chain([Dense(4, 4)]), "a list is no layer: unpack it"),
        (lambda: Chain(nn.ReLU), "ReLU is a class: write ReLU"),
        (lambda: Chain(3), "a layer must be callable, and 3 is not"),
        (lambda: Chain(None), "a layer must be callable"),
        (lambda: Chain("relu"), "a layer must be callable"),
        (lambda: Chain(*[Dense(4, 4)] * 3), "same Dense object.*tie"),
        (lambda: Chain(Dense(4, 4), **{"0": Dense(4, 4)}), "two layers are named '0'"),
        (lambda: Chain(Dense(4, 4), input=(None, 4)), "positive whole numbers without the batch axis"),
        (lambda: Chain(Dense(4, 4), input=(0,)), "positive whole numbers without the batch axis"),
        (lambda: Chain(Dense(4, 4), input="4"), "positive whole numbers without the batch axis"),
        (lambda: Skip(), "from a value to itself|layer"),
    ],
)
def test_what_is_no_chain_is_refused_with_the_place(make, what):
    with pytest.raises(ChainError, match=rf"(?s)test_chain\.py:\d+.*({what})|({what}).*test_chain\.py:\d+"):
        make()


# -- shortcuts ---------------------------------------------------------------------------------------------------------


def test_crossing_shortcuts(x4):
    net = crossing()
    stem = net["stem"](x4)
    a = net["a"](stem) + x4 @ net.shortcuts["input->a"].path.weight.T
    assert torch.allclose(net(x4), net["head"](net["b"](a) + stem), rtol=0, atol=1e-6)


def test_skip_is_a_chain_with_one_shortcut(x4):
    layers = [Dense(4, 4, relu), Dense(4, 4)]
    skip = Skip(*layers, act=relu, scale=0.5)
    chain = Chain(*layers, wiring=[Shortcut("input", "output", act=relu, scale=0.5)])
    assert skip.wiring == chain.wiring
    assert isinstance(skip, Chain)
    assert torch.equal(skip(x4), chain(x4))
    assert torch.equal(skip(x4), torch.relu(0.5 * layers[1](layers[0](x4)) + x4))


def test_identity_skip_and_cat_skip():
    assert IdentitySkip(Dense(4, 4)).wiring == Skip(Dense(4, 4), merge="add").wiring
    assert CatSkip(Dense(4, 5)).wiring == Skip(Dense(4, 5), merge="cat").wiring
    assert type(IdentitySkip(Dense(4, 4))) is Skip


def test_every_one_is_nested_skips(x4):
    layers = [Dense(4, 4, relu) for _ in range(5)]
    flat = Chain(*layers, wiring=every(1))
    nested = Chain(*[Skip(layer) for layer in layers])
    assert torch.equal(flat(x4), nested(x4))


def test_shortcuts_into_and_out_of_nested_chains(x4):
    net = Chain(
        enc=Chain(down1=Dense(4, 6), down2=Dense(6, 6)),
        dec=Chain(up1=Dense(6, 6), up2=Dense(6, 4)),
        wiring=[
            Shortcut("enc.down1", "dec.up1"),
            Shortcut("input", "dec.up2"),
            Shortcut("enc", "dec.up1", merge="mul"),
        ],
    )
    d1 = net["enc"]["down1"](x4)
    d2 = net["enc"]["down2"](d1)
    u1 = (net["dec"]["up1"](d2) + d1) * d2
    assert torch.equal(net(x4), net["dec"]["up2"](u1) + x4)


def test_nested_wirings_and_outer_ones_meet(x4):
    inner = Chain(a=Dense(4, 4), b=Dense(4, 4), wiring=[Shortcut("input", "output", act=relu)])
    net = Chain(stem=Dense(4, 4), body=inner, wiring=[Shortcut("stem", "body.b"), Shortcut("input", "body")])
    s = net["stem"](x4)
    b = inner["b"](inner["a"](s))
    # the inner shortcut ends at the same value as "body.b": a chain settles its own wiring first
    assert torch.equal(net(x4), torch.relu(b + s) + s + x4)


@pytest.mark.parametrize("start", [0, "input"])
def test_the_input_of_a_chain_has_no_branch(x4, start):
    """Whether it is opened or not: what merged before it belongs to the chain around."""
    relu = torch.relu

    def net(*more: Shortcut) -> Chain:
        inner = Chain(relu, lambda x: x + 1, wiring=[Shortcut(start, 2, tap="branch")])
        return Chain(relu, relu, inner, relu, wiring=[Shortcut(0, 2), *more])

    x = x4.abs() + 1
    closed, opened = net(), net(Shortcut("2.0", 4, path_scale=0.0))
    assert torch.equal(closed(x), opened(x))
    assert torch.equal(closed(x), (2 * x + 1) + 2 * x)


def test_an_opened_chain_still_works_by_itself(x4):
    inner = Chain(a=Dense(4, 4), b=Dense(4, 4), wiring=every(1))
    before = inner(x4)
    net = Chain(stem=Dense(4, 4), body=inner, wiring=[Shortcut("stem", "body.b")])
    assert torch.equal(inner(x4), before)
    net(x4)
    assert torch.equal(net["body"](x4), before)
    assert "self" in net["body"].code


# -- open and closed ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "use",
    [
        lambda net: net(torch.ones(1, 4)),
        lambda net: list(net.parameters()),
        lambda net: net.state_dict(),
        lambda net: net.to("cpu"),
        lambda net: net.code,
        lambda net: net.features(torch.ones(1, 4), [0]),
        lambda net: net.load_state_dict({}),
        lambda net: torch.optim.SGD(net.parameters()),
    ],
)
def test_an_open_chain_refuses_to_be_used_and_says_how_to_close_it(use):
    net = Chain(Dense(..., 5), Dense(5, 2))
    with pytest.raises(OpenChainError, match=r"test_chain.*Dense\(\.\.\., 5\).*input=.*net\.build\(shape\)"):
        use(net)


def test_an_open_chain_prints_what_is_missing_and_copies():
    net = Chain(Dense(..., 5), Dense(5, 2))
    assert net.is_open
    assert "open" in str(net)
    assert "waits for the width" in str(net)
    assert not copy.deepcopy(net).build(3).is_open
    assert net.is_open


def test_a_chain_around_closes_an_open_one():
    inner = Skip(Dense(..., 6))
    net = Chain(Dense(4, 6), inner)
    assert not inner.is_open
    assert inner[0].in_features == 6
    assert len(list(net.parameters())) == 4


def test_build_again_for_another_shape_leaves_a_failed_chain_as_it_was(x4):
    net = Chain(Dense(..., 5), Dense(5, 2)).build((4,))
    before, printed, code = net(x4), str(net), repr(net)
    with pytest.raises(ShapeError):
        net.build((7,))
    assert torch.equal(net(x4), before)
    assert str(net) == printed
    assert repr(net) == code


def test_a_layer_with_weights_is_not_made_anew_by_another_chain(x4):
    first = Chain(Dense(..., 5), Dense(5, 2), input=4)
    before = first(x4)
    with contextlib.suppress(ChainError):
        Chain(first[0], Dense(5, 3), input=7)
    assert torch.equal(first(x4), before)


# -- input -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("x", [[1.0], None, 3, "x"])
def test_what_is_no_tensor_is_told(x):
    with pytest.raises(ChainError, match=r"takes one tensor, not a \w+"):
        Chain(Dense(4, 4))(x)


def test_a_wrong_width_is_told_with_layer_and_shape():
    with pytest.raises(ShapeError, match=r"\(N, 5\).*layer '0' = Dense\(4, 4\).*takes 4 features and gets 5"):
        Chain(Dense(4, 4), Dense(4, 2))(torch.ones(3, 5))


@pytest.mark.parametrize("x", [torch.ones(5), torch.tensor(1.0)])
def test_a_missing_batch_axis_is_told(x):
    with pytest.raises(ShapeError, match=r"with a batch axis|\(N, 5\) does not fit"):
        Chain(Dense(4, 4))(x)


@pytest.mark.parametrize(
    "net",
    [
        lambda: Chain(Conv(3, 8, 3, padding=1), MaxPool(2), input=(3, 8, 8)),
        lambda: Chain(Conv(3, 8, 3, padding=1), GlobalAvgPool(), Dense(8, 2), input=(3, 8, 8)),
        lambda: Chain(Conv(3, 8, 3, padding=1), BatchNorm(8), input=(3, 8, 8)),
        lambda: Chain(Conv(3, 8, (3,), padding=1), nn.BatchNorm1d(8), input=(3, 8)),
        lambda: Chain(Conv(3, 3, 3, padding=1), Flatten(), input=(3, 8, 8)),
        lambda: Chain(Dense(4, 4), wiring=every(1)),
        lambda: Chain(Dense(4, 4), wiring=dense(merge="cat")),
    ],
)
def test_one_sample_without_batch_axis_is_right_or_refused(net):
    net = net().eval()
    x = torch.randn(net.plan.input.shape)
    try:
        got = net(x)
    except ChainError:
        return
    # never other numbers than the same sample in a batch of one
    assert torch.allclose(got, net(x[None])[0], atol=1e-6)


def test_another_dtype_is_told():
    with pytest.raises(ChainError, match=r"holds torch.float64 and '0.weight' of this chain torch.float32"):
        Chain(Dense(4, 4))(torch.ones(1, 4, dtype=torch.float64))
    with pytest.raises(ChainError, match=r"holds torch.int64 and"):
        Chain(Dense(4, 4))(torch.ones(1, 4, dtype=torch.int64))


def test_another_device_is_told():
    with pytest.raises(ChainError, match=r"the input is on meta and '0.weight' of this chain is on cpu: x.to\('cpu'\)"):
        Chain(Dense(4, 4))(torch.ones(1, 4, device="meta"))


def test_shapes_not_seen_before_are_checked_and_run():
    net = Chain(Dense(4, 4), wiring=every(1))
    for shape in [(2, 4), (2, 7, 4), (1, 4), (0, 4), (2, 3, 5, 4)]:
        x = torch.randn(shape)
        assert torch.equal(net(x), net[0](x) + x)


def test_a_layer_that_cannot_be_planned_never_makes_an_add_broadcast():
    class Shrinks(nn.Module):
        """Refuses the dry run, and makes one column of more than two rows."""

        def forward(self, x: Tensor) -> Tensor:
            if len(x) < 3 or x.is_meta:
                raise RuntimeError("needs rows")
            return x[:, :1]

    net = Chain(Shrinks(), wiring=[Shortcut(0, 1)])
    with pytest.raises(ShapeError, match=r"(?s)'0->1'.*\(N, 1\).*\(N, 4\)"):
        net(torch.ones(5, 4))


# -- features ----------------------------------------------------------------------------------------------------------


def test_features_are_the_values_of_one_pass(x4):
    net = crossing()
    got = net.features(x4, at=["input", "stem", "a", "b", "output", 0, -1, 2])
    assert list(got) == ["input", "stem", "a", "b", "output", 0, -1, 2]
    stem = net["stem"](x4)
    assert got["input"] is x4
    assert torch.equal(got["stem"], stem)
    assert torch.equal(got["output"], net(x4))
    assert torch.equal(got[-1], net(x4))
    assert torch.equal(got["a"], got[2])
    assert torch.allclose(net["head"](got["b"]), net(x4))


def test_features_of_nested_chains(x4):
    net = Chain(stem=Dense(4, 4), enc=Chain(a=Dense(4, 4), b=Skip(Dense(4, 4))), head=Dense(4, 2))
    got = net.features(x4, at=["enc.a", "enc.b.0", "enc.b", "enc"])
    a = net["enc.a"](net["stem"](x4))
    assert torch.equal(got["enc.a"], a)
    assert torch.equal(got["enc.b"], net["enc.b.0"](a) + a)
    assert torch.equal(got["enc.b"], got["enc.b.0"])  # the value after the only layer, its merge included
    assert torch.equal(got["enc"], got["enc.b"])


def test_features_run_only_what_is_needed(x4):
    ran = []
    net = Chain(a=Dense(4, 4), b=Dense(4, 4), wiring=[Shortcut("a", "b")])
    net["b"].register_forward_hook(lambda *_: ran.append(1))
    net.features(x4, at=["a"])
    assert ran == []
    assert net.features(x4, at=[]) == {}


@pytest.mark.parametrize(
    "between", [[], [Flatten()], [lambda x: x.view(x.shape)], [nn.Identity(), Chain(nn.Identity())]]
)
def test_features_are_not_changed_by_layers_that_work_in_place(between, x4):
    net = Chain(a=Dense(4, 4), **{f"m{i}": m for i, m in enumerate(between)}, r=nn.ReLU(inplace=True))
    got = net.features(x4, at=["a", "r"])
    assert torch.equal(got["a"], net["a"](x4))
    assert torch.equal(got["r"], net["a"](x4).relu())
    x = x4.clone()
    held = Chain(r=nn.ReLU(inplace=True)).features(x, at=["input", "r"])
    assert torch.equal(held["input"], x4)


def test_features_of_names_that_are_none(x4):
    net = crossing()
    with pytest.raises(ChainError, match="no value 'stme': did you mean 'stem'"):
        net.features(x4, at=["stme"])
    with pytest.raises(ChainError, match=r"its values are 0 to 4: there is no (value )?9"):
        net.features(x4, at=[9])


def test_features_carry_gradients(x4):
    net = crossing()
    net.features(x4, at="a")["a"].sum().backward()
    assert net["stem"].weight.grad is not None
    assert net["head"].weight.grad is None


# -- changing a chain in place -----------------------------------------------------------------------------------------


def test_assigning_a_layer_is_seen_by_the_forward(x4):
    net = Chain(a=Dense(4, 4), b=relu, wiring=every(1))
    net.b = nn.Tanh()
    a = net["a"](x4) + x4
    assert torch.equal(net(x4), torch.tanh(a) + a)
    net.a = Dense(4, 4, bias=False)
    assert "a.bias" not in net.state_dict()


def test_assigning_a_layer_that_does_not_fit_leaves_the_chain_as_it_was(x4):
    net = Chain(a=Dense(4, 4), b=Dense(4, 4), wiring=every(1))
    before, held = net(x4), net["b"]
    with pytest.raises(ChainError, match=r"\(N, 3\)"):
        net.b = Dense(4, 3)
    assert net["b"] is held
    assert torch.equal(net(x4), before)


def test_assigning_inside_a_nested_chain_never_broadcasts(x4):
    net = Chain(a=Dense(4, 4), b=Chain(c=Dense(4, 4)), wiring=[Shortcut("a", "b")])
    net(x4)

    def assign_and_run():
        net["b"].c = Dense(4, 1)
        net(x4)

    with pytest.raises(ChainError, match=r"(?s)\(N, 1\).*\(N, 4\)"):  # at once, or at the next forward
        assign_and_run()


def test_assigning_inside_an_opened_chain_is_seen(x4):
    net = Chain(a=Dense(4, 4), b=Chain(c=Dense(4, 4), d=relu), wiring=[Shortcut("a", "b.c")])
    net(x4)
    net["b"].d = nn.Tanh()
    a = net["a"](x4)
    assert torch.equal(net(x4), torch.tanh(net["b.c"](a) + a))


def test_assigning_a_callable_or_deleting_a_layer_works_or_is_refused_clearly(x4):
    net = Chain(a=Dense(4, 4), b=relu)
    try:
        net.b = torch.tanh
    except ChainError:
        pass
    else:
        assert torch.equal(net(x4), torch.tanh(net["a"](x4)))
    try:
        del net.b
    except (ChainError, AttributeError):
        assert len(net) == 2
    else:
        assert len(net) == 1
        assert torch.equal(net(x4), net["a"](x4))


# -- copies and memory -------------------------------------------------------------------------------------------------

AROUND = [Shortcut(0, 2)]
CHAINS = {
    "plain": lambda: Chain(Dense(4, 4), relu, Dense(4, 2)),
    "crossing": crossing,
    "pattern": lambda: Chain(
        *[Dense(4, 4) for _ in range(4)], wiring=dense(merge="cat", tap="branch") if False else dense()
    ),
    "sum of patterns": lambda: Chain(Dense(4, 4), Dense(4, 4), wiring=every(1, scale=Learned(0.5)) + AROUND),
    "gates": lambda: Chain(Dense(4, 4), Dense(4, 4), wiring=every(1, merge="gate")),
    "opened": lambda: Chain(a=Chain(b=Dense(4, 4), c=Dense(4, 4)), d=Dense(4, 4), wiring=[Shortcut("a.b", "d")]),
    "skips": lambda: Chain(*[Skip(Dense(4, 4), Dense(4, 4), act=relu) for _ in range(3)]),
}


@pytest.mark.parametrize("make", CHAINS.values(), ids=CHAINS.keys())
@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))], ids=["deepcopy", "pickle"]
)
def test_copies_are_equal_and_independent(make, copied, x4):
    net = make()
    net(x4)
    twin = copied(net)
    assert torch.equal(twin(x4), net(x4))
    assert str(twin) == str(net)
    assert repr(twin) == repr(net)
    assert twin.code == net.code
    with torch.no_grad():
        for p in twin.parameters():
            p.add_(1.0)
    assert not torch.equal(twin(x4), net(x4))


@pytest.mark.parametrize("make", CHAINS.values(), ids=CHAINS.keys())
def test_state_dicts_round_trip(make, x4):
    net, twin = make(), make()
    assert list(net.state_dict()) == list(twin.state_dict())
    twin.load_state_dict(net.state_dict())
    assert torch.equal(twin(x4), net(x4))


@pytest.mark.parametrize("make", CHAINS.values(), ids=CHAINS.keys())
def test_nothing_is_kept_after_a_forward(make):
    net = make()
    x = torch.randn(3, 4)
    seen = weakref.ref(x)
    y = net(x)
    net.features(x, at=[1])
    out = weakref.ref(y)
    del x, y
    gc.collect()
    assert seen() is None
    assert out() is None


def test_subclasses_work(x4):
    class Net(Chain):
        def __init__(self) -> None:
            super().__init__(Dense(4, 4), Dense(4, 4), wiring=every(1))
            self.extra = 3

    net = Net()
    assert torch.equal(pickle.loads(pickle.dumps(Chain(*net)))(x4), Chain(*net)(x4))
    assert net(x4).shape == (3, 4)
    assert str(net).startswith("Net")
