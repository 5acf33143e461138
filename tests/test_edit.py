import copy
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

import skipway
from skipway import (
    Chain,
    ChainError,
    Conv,
    Dense,
    Learned,
    Parallel,
    Project,
    ShapeError,
    Shortcut,
    Skip,
    dense,
    every,
    relu,
    tanh,
    unet,
)


def crossing(**options):
    return Chain(
        stem=Dense(4, 4, relu), a=Dense(4, 4, tanh), b=Dense(4, 4, relu), head=Dense(4, 2),
        wiring=[Shortcut("stem", "b", **options), Shortcut("input", "a", path=Project(always=True))],
    )  # fmt: skip


# -- without, plain, rewire --------------------------------------------------------------------------------------------


def test_without_equals_a_net_rebuilt_without(x4):
    net = crossing()
    less = net.without("stem->b")
    rebuilt = Chain({k: net[k] for k in ("stem", "a", "b", "head")}, wiring=[net.wiring[1]])
    rebuilt.load_state_dict(less.state_dict())
    assert less.wiring == (net.wiring[1],)
    assert torch.equal(less(x4), rebuilt(x4))
    assert less["stem"] is net["stem"]
    assert less.shortcuts["input->a"].path is net.shortcuts["input->a"].path


def test_without_takes_shortcuts_as_they_are_in_the_wiring(x4):
    net = crossing()
    assert torch.equal(net.without(*net.wiring)(x4), net.plain()(x4))


def test_without_reaches_into_nested_chains(x4):
    net = Chain(Dense(4, 4), Skip(Dense(4, 4)), Chain(Dense(4, 4), Skip(Dense(4, 4))))
    less = net.without("1.input->output")
    assert torch.equal(less(x4), net[2](net[1][0](net[0](x4))))
    deep = net.without("2.1.input->output")
    assert torch.equal(deep(x4), net[2][1][0](net[2][0](net[1](net[0](x4)))))
    assert [len(c.wiring) for c in (net[1], net[2][1])] == [1, 1]


def test_without_one_that_is_not_there():
    with pytest.raises(ChainError, match=r"no shortcut 'stem->c'.*did you mean 'stem->b'"):
        crossing().without("stem->c")


def test_without_a_shortcut_a_width_depends_on_says_so():
    net = Chain(Dense(4, 4), Dense(8, 2), wiring=[Shortcut(0, 1, merge="cat")])
    with pytest.raises(ShapeError, match="takes 8 features and gets 4"):
        net.without("0->1")


def test_the_plain_twin_is_the_layers_alone(x4):
    net = crossing()
    out = x4
    for layer in net:
        out = layer(out)
    assert torch.equal(net.plain()(x4), out)
    assert net.plain().wiring == ()
    # the activation after a merge is a non-linearity of the net, so the control keeps it
    block = Skip(Dense(4, 4), act=relu)
    assert torch.equal(block.plain()(x4), block[0](x4).relu())
    assert [n for n, _ in net.plain().named_parameters()] == [
        n for n, _ in net.named_parameters() if "shortcut" not in n
    ]


def test_the_plain_twin_has_no_shortcut_anywhere(x4):
    net = Chain(Dense(4, 4), Skip(Dense(4, 4), Skip(Dense(4, 4))), Parallel(Skip(Dense(4, 4)), Dense(4, 4)))
    assert not [c for c in net.plain().modules() if isinstance(c, Chain) and c.wiring]
    assert len(net[1].wiring) == 1


def test_the_plain_twin_of_a_concatenation_has_fresh_layers_where_widths_change(x4):
    net = Chain(*[Dense(..., 3, relu) for _ in range(3)], input=4, wiring=dense(merge="cat"))
    plain, before = net.plain(), net(x4)
    assert [layer.in_features for layer in plain] == [4, 3, 3]
    assert [layer.in_features for layer in net] == [4, 7, 10]
    assert plain[0] is net[0]
    assert torch.equal(net(x4), before)
    with torch.no_grad():
        for layer in list(plain)[1:]:
            layer.weight.zero_()
    assert torch.equal(net(x4), before)


def test_rewire_keeps_what_stays(x4):
    net = crossing()
    again = net.rewire([Shortcut("input", "a", path=Project(always=True)), Shortcut("a", "b")])
    assert again.shortcuts["input->a"].path is net.shortcuts["input->a"].path
    assert len(net.wiring) == 2
    s = net["stem"](x4)
    a = net["a"](s) + x4 @ net.shortcuts["input->a"].path.weight.T
    assert torch.allclose(again(x4), net["head"](net["b"](a) + a), atol=1e-6)


def test_rewire_with_a_pattern_is_a_chain_of_that_pattern(x4):
    net = Chain(*[Dense(4, 4, relu) for _ in range(6)])
    more = [Shortcut(0, 6, name="all")]
    for pattern in (every(2), unet(), dense(), every(3) + more):
        assert torch.equal(net.rewire(pattern)(x4), Chain(*copy.deepcopy(list(net)), wiring=pattern)(x4))


def test_rewire_takes_unhashable_merges(x4):
    @dataclass
    class Weighted:
        by: float = 2.0

        def __call__(self, branch: Tensor, shortcut: Tensor) -> Tensor:
            return branch + self.by * shortcut

    net = Chain(Dense(4, 4), Dense(4, 4), wiring=[Shortcut(0, 1, merge=Weighted())])
    assert torch.equal(net.rewire(net.wiring)(x4), net(x4))
    assert torch.equal(net.without("0->1")(x4), net.plain()(x4))


def test_derived_chains_train_the_same_layers_but_their_own_fresh_parts(x4):
    net = crossing()
    more = net.rewire([*net.wiring, Shortcut("a", "head", path="project")])
    assert more.shortcuts["a->head"].path.weight is not None
    assert "a->head" not in net.shortcuts
    assert {id(p) for p in net.parameters()} < {id(p) for p in more.parameters()}


def test_derived_chains_leave_the_original_alone(x4):
    net = Chain(
        stem=Dense(4, 4), enc=Chain(a=Dense(4, 4), b=Dense(4, 4), wiring=every(1)), head=Dense(4, 4),
        wiring=[Shortcut("enc.a", "head"), Shortcut("stem", "enc.b", path=Project(always=True))],
    )  # fmt: skip
    before, text, code = net(x4), str(net), net.code
    derived = [net.plain(), net.without("enc.a->head"), net.without("enc.0->1"), net.rewire(()), net.insert(1, relu),
               net.replace("head", Dense(4, 4)), net[:1]]  # fmt: skip
    for other in derived:
        other(x4)
        with torch.no_grad():
            other.eval()
        net.train()
        assert torch.equal(net(x4), before)
        assert str(net) == text
        assert net.code == code


def test_a_derivation_that_fails_leaves_the_original_alone(x4):
    net = Chain(Dense(4, 4), Skip(Dense(4, 4)), Dense(4, 2), wiring=[Shortcut(0, 2)])
    before, text = net(x4), str(net)
    for fails in (
        lambda: net.replace(0, Dense(4, 5)),
        lambda: net.insert(1, Dense(4, 5)),
        lambda: net.replace(1, Skip(Dense(3, 3))),
        lambda: net.rewire([Shortcut(0, 3)]),
        lambda: net.rewire([Shortcut("1.0", "nowhere")]),
    ):
        with pytest.raises(ChainError):
            fails()
        assert torch.equal(net(x4), before)
        assert str(net) == text


# -- insert ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", range(5))
@pytest.mark.parametrize(
    "wiring",
    [
        every(1),
        every(2),
        unet(),
        dense(),
        [Shortcut("0", "2"), Shortcut("input", 3)],
        [Shortcut(-5, -2), Shortcut(1, "3")],
    ],
)
def test_inserting_the_identity_changes_nothing(at, wiring, x4):
    # every shortcut must go on joining the outputs of the same layers
    net = Chain(*[Dense(4, 4, relu) for _ in range(4)], wiring=wiring)
    longer = net.insert(at, nn.Identity())
    assert len(longer) == 5
    assert torch.equal(longer(x4), net(x4))
    assert longer.features(x4, [-1])[-1].shape == (3, 4)


@pytest.mark.parametrize("at", ["stem", "a", "b", "head"])
def test_inserting_before_a_name(at, x4):
    net = crossing()
    longer = net.insert(at, nn.Identity(), name="new")
    assert torch.equal(longer(x4), net(x4))
    assert longer.values[1:].index("new") == net.values[1:].index(at)


def test_inserting_at_the_end_does_not_shift_a_shortcut_to_the_output(x4):
    net = Skip(Dense(4, 4))
    longer = net.insert(1, Dense(4, 4))
    assert torch.equal(longer(x4), longer[1](net(x4)))


def test_inserting_keeps_projections_and_dotted_ends(x4):
    net = Chain(
        Chain(a=Dense(4, 6), b=Dense(6, 6)), Dense(6, 6), Dense(6, 6),
        wiring=[Shortcut("0.a", 2, path=Project(always=True)), Shortcut(1, 3, scale=Learned(0.5))],
    )  # fmt: skip
    longer = net.insert(0, nn.Identity())
    assert torch.equal(longer(x4), net(x4))
    assert {id(p) for p in longer.parameters()} == {id(p) for p in net.parameters()}


@pytest.mark.parametrize(
    ("make", "error", "what"),
    [
        (lambda: crossing().insert("q", relu), (ChainError, KeyError), "no layer 'q'"),
        (lambda: crossing().insert(9, relu), (ChainError, IndexError), "no layer 9"),
        (lambda: crossing().insert(0, relu, name="a"), ChainError, "two layers are named 'a'"),
        (lambda: crossing().insert(1, Dense(4, 5)), ShapeError, "takes 4 features and gets 5"),
        (lambda: crossing().insert(1, crossing()["a"].weight), ChainError, "must be callable"),
    ],
)
def test_wrong_insertions(make, error, what):
    with pytest.raises(error, match=what):
        make()


def test_an_inserted_layer_that_is_there_already_would_share_weights():
    net = crossing()
    with pytest.raises(ChainError, match="same Dense object"):
        net.insert(1, net["a"])


def test_repr_of_a_chain_with_an_unnamed_layer_after_named_ones(x4):
    net = Chain(Dense(4, 4), a=Dense(4, 4, relu)).insert(2, Dense(4, 3))
    again = eval(repr(net), vars(skipway))
    again.load_state_dict(dict(zip(again.state_dict(), net.state_dict().values(), strict=True)))
    assert torch.equal(again(x4), net(x4))


# -- replace -----------------------------------------------------------------------------------------------------------


def test_replace_is_a_chain_with_another_layer(x4):
    net = crossing()
    new = Dense(4, 4)
    other = net.replace("b", new)
    assert other["b"] is new
    assert net["b"] is not new
    assert other["a"] is net["a"]
    s = net["stem"](x4)
    a = net["a"](s) + x4 @ net.shortcuts["input->a"].path.weight.T
    assert torch.allclose(other(x4), net["head"](new(a) + s), atol=1e-6)


def test_replace_by_another_width_makes_projections_anew(x4):
    net = Chain(a=Dense(4, 4), b=Dense(4, 5), wiring=every(1, path="project"))
    other = net.replace("b", Dense(4, 3))
    assert other.shortcuts["1->2"].path.weight.shape == (3, 4)
    assert other(x4).shape == (3, 3)
    assert net.shortcuts["1->2"].path.weight.shape == (5, 4)


def test_replace_by_another_width_makes_a_projection_where_none_was_needed(x4):
    net = Chain(a=Dense(4, 4), b=Dense(4, 4), wiring=every(1, path="project"))
    assert net.replace("b", Dense(4, 3))(x4).shape == (3, 3)


def test_replace_by_another_width_with_a_scale_per_channel(x4):
    wiring = [Shortcut("a", "b", merge="cat", scale=Learned(1.0, per="channel"))]
    net = Chain(a=Dense(4, 4), b=Dense(4, 4), c=Dense(..., 2), wiring=wiring)
    other = net.replace("b", Dense(4, 1))
    # four scales on one column would broadcast
    assert other(x4).shape == (3, 2)
    assert other["c"].in_features == 5


# -- slices ------------------------------------------------------------------------------------------------------------


def test_a_slice_is_a_chain_of_its_layers(x4):
    net = Chain(*[Dense(4, 4, relu) for _ in range(6)], wiring=every(2))
    assert torch.equal(net[4:](net[:4](x4)), net(x4))
    assert net[2:4].wiring == (Shortcut(0, 2),)
    assert net[:-2].wiring == (Shortcut(0, 2), Shortcut(2, 4))
    assert torch.equal(net[:](x4), net(x4))
    assert len(net[3:3]) == 0
    assert all(a is b for a, b in zip(list(net)[2:4], net[2:4], strict=True))


def test_a_slice_by_names(x4):
    net = Chain(
        a=Dense(4, 4), b=Dense(4, 4), c=Dense(4, 4), d=Dense(4, 4), wiring=[Shortcut("b", "d"), Shortcut("b", "c")]
    )
    tail = net["c":]
    assert torch.equal(tail(net[:"c"](x4)), net(x4))
    assert [s.start for s in tail.wiring] == ["input", "input"]


def test_a_slice_keeps_what_its_shortcuts_own(x4):
    net = Chain(*[Dense(4, 4) for _ in range(4)], wiring=every(2, path=Project(always=True), scale=Learned(0.5)))
    part = net[2:]
    assert part.shortcuts["0->2"].path is net.shortcuts["2->4"].path
    assert torch.equal(part(net[:2](x4)), net(x4))


@pytest.mark.parametrize("which", [slice(1, None), slice(0, 1), slice(1, 2)])
def test_a_slice_that_cuts_a_shortcut_is_refused_by_name(which):
    net = Chain(*[Dense(4, 4) for _ in range(3)], wiring=[Shortcut(0, 2)])
    if which in (slice(0, 1),):
        # the value the shortcut starts at is here, its end is not: nothing the slice computes is wrong
        assert net[which].wiring == ()
        return
    with pytest.raises(ChainError, match=r"would cut the shortcut '0->2' \(test_edit\.py:\d+\).*net\.without"):
        net[which]


def test_a_slice_out_of_nested_ends(x4):
    net = Chain(
        stem=Dense(4, 4), enc=Chain(a=Dense(4, 4), b=Dense(4, 4)), dec=Dense(4, 4), wiring=[Shortcut("enc.a", "dec")]
    )
    assert torch.equal(net[1:](net[:1](x4)), net(x4))
    with pytest.raises(ChainError, match=r"would cut the shortcut 'enc\.a->dec'"):
        net[2:]


def test_a_slice_takes_no_step():
    with pytest.raises(ChainError, match="takes no step"):
        Chain(Dense(4, 4), Dense(4, 4))[::2]


def test_a_slice_of_images_knows_its_input():
    net = Chain(Conv(3, 4, 3, padding=1), Conv(4, 4, 3), Skip(Conv(4, 4, 3, padding=1)), input=(3, 8, 8))
    assert net[1:].plan.input.shape == (4, 8, 8)
    assert net[2:].plan.input.shape == (4, 6, 6)


def test_editing_keeps_mode_and_precision(x4):
    net = crossing().double().eval()
    for other in (net.plain(), net.rewire(every(1, path=Project(always=True))), net.insert(0, nn.Identity()), net[:1]):
        assert not other.training
        assert not any(m.training for m in other.modules())
        assert {p.dtype for p in other.parameters()} <= {torch.float64}
