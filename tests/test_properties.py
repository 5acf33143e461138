"""Random nets against a naive executor that knows nothing of plans and generated code.

x_b = act(merge(drop(scale * branch), path_scale * path(x_a)))      for every shortcut a -> b, in wiring order
"""

import copy
import pickle
import weakref
from collections.abc import Collection
from dataclasses import dataclass, replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import skipway
from skipway import (
    Cat,
    Chain,
    Dense,
    Gate,
    Learned,
    Project,
    Shortcut,
    Skip,
    dense,
    every,
    log2,
    relu,
    sliding,
    tanh,
    unet,
)

# -- the reference -----------------------------------------------------------------------------------------------------


def combine(connection, shortcut: Shortcut, branch: Tensor, value: Tensor) -> Tensor:
    """One shortcut, by its definition; weights are taken from where the chain keeps them."""
    if shortcut.scale is not None:
        branch = branch * (connection.scale if isinstance(shortcut.scale, Learned) else shortcut.scale)
    if connection is not None and isinstance(connection.path, nn.Linear):
        value = value @ connection.path.weight.T
    elif shortcut.path == "pad":
        more = branch.shape[-1] - value.shape[-1]
        value = torch.cat([value, value.new_zeros(*value.shape[:-1], more)], -1) if more else value
    elif callable(shortcut.path):
        value = shortcut.path(value)
    if shortcut.path_scale is not None:
        value = value * (connection.path_scale if isinstance(shortcut.path_scale, Learned) else shortcut.path_scale)
    merge = shortcut.merge
    if merge == "add":
        out = branch + value
    elif merge == "mul":
        out = branch * value
    elif merge == "mean":
        out = (branch + value) * 0.5
    elif merge == "max":
        out = torch.where(branch >= value, branch, value)
    elif merge == "cat":
        out = torch.cat([branch, value], -1)
    elif isinstance(merge, Cat):
        out = torch.cat([value, branch], -1)
    elif merge == "gate" or isinstance(merge, Gate):
        transform = connection.merge.transform
        gate = torch.sigmoid(F.linear(value, transform.weight, transform.bias))
        out = value + gate * (branch - value)
    else:
        out = merge(branch, value)
    return out if shortcut.act is None else shortcut.act(out)


def reference(net: Chain, x: Tensor, gone: Collection[str] = ()) -> list[Tensor]:
    """All values of a flat chain, one after the other; of shortcuts that are gone only the activation remains."""
    n, names = len(net), {"input": 0, "output": len(net), **{k: i + 1 for i, k in enumerate(net._keys)}}
    at = [names[e] if isinstance(e, str) else e % (n + 1) for s in net.wiring for e in (s.start, s.end)]
    states, branches = [x], [x]
    for b, layer in enumerate(net, start=1):
        value = layer(states[-1])
        branches.append(value)
        for i, shortcut in enumerate(net.wiring):
            start, end = at[2 * i], at[2 * i + 1]
            if end == b and shortcut.label in gone:
                value = value if shortcut.act is None else shortcut.act(value)
            elif end == b:
                held = branches if shortcut.tap == "branch" else states
                value = combine(net.shortcuts[shortcut.label], shortcut, value, held[start])
        states.append(value)
    return states


# -- random nets -------------------------------------------------------------------------------------------------------


def weighted(branch: Tensor, shortcut: Tensor) -> Tensor:
    return 2 * branch - 3 * shortcut


EQUAL = ["add", "mul", "mean", "max", "gate", weighted]
JOINED = ["cat", Cat(first="shortcut")]


@dataclass
class Recipe:
    """What a chain is made of, so that it can be made twice."""

    widths: list[int]
    acts: list
    names: list[str | None]
    wiring: list[Shortcut]

    def build(self) -> Chain:
        torch.manual_seed(0)
        layers = [Dense(..., w, a) for w, a in zip(self.widths[1:], self.acts, strict=True)]
        positional = [la for la, name in zip(layers, self.names, strict=True) if name is None]
        named = {name: la for la, name in zip(layers, self.names, strict=True) if name is not None}
        net = Chain(*positional, **named, input=self.widths[0], wiring=self.wiring).double()
        with torch.no_grad():  # scales that start at nought would hide what they multiply
            for p in net.parameters():
                p.add_(torch.randn_like(p) * 0.3)
        return net


@st.composite
def recipes(draw, most: int = 6, merges: list | None = None) -> Recipe:
    n = draw(st.integers(1, most))
    widths = draw(st.lists(st.integers(1, 5), min_size=n + 1, max_size=n + 1))
    if draw(st.booleans()):  # often equal, so that the identity gets its turn
        widths = [widths[0]] * (n + 1)
    acts = draw(st.lists(st.sampled_from([None, relu, tanh, torch.sin]), min_size=n, max_size=n))
    first_named = draw(st.integers(0, n))
    names = [None if i < first_named else f"layer_{i}" for i in range(n)]
    pairs = draw(st.lists(st.tuples(st.integers(0, n), st.integers(0, n)).filter(lambda p: p[0] < p[1]), max_size=8))
    wiring = []
    for i, (a, b) in enumerate(pairs):
        merge = draw(st.sampled_from(merges or EQUAL + JOINED))
        options = {
            "merge": merge,
            "path": draw(st.sampled_from(["identity", torch.sin])) if merge in JOINED else "project",
            "scale": draw(st.sampled_from([None, 0.5, -2, Learned(0.3), Learned(0.3, per="channel")])),
            "path_scale": draw(st.sampled_from([None, 1.5, Learned(0.7), Learned(0.7, per="channel")])),
            "act": draw(st.sampled_from([None, tanh])),
            "tap": draw(st.sampled_from(["state", "branch"])),
        }
        ends = [a, b]
        for k, end in enumerate(ends):  # the same value under any of its names
            known = [end, end - n - 1]
            known += ["input"] if end == 0 else [names[end - 1] or str(end - 1)]
            known += ["output"] if end == n else []
            ends[k] = draw(st.sampled_from(known))
        wiring.append(Shortcut(*ends, **options, name=f"s{i}"))
    return Recipe(widths, acts, names, wiring)


def batch(net: Chain, rows: int = 3) -> Tensor:
    g = torch.Generator().manual_seed(5)
    return torch.randn(rows, *net.plan.input.shape, dtype=torch.float64, generator=g)


# -- forward -----------------------------------------------------------------------------------------------------------


@settings(max_examples=150)
@given(recipes())
def test_every_net_computes_what_its_wiring_says(recipe):
    net = recipe.build()
    x = batch(net)
    expected = reference(net, x)
    assert torch.equal(net(x), expected[-1])
    got = net.features(x, at=range(len(net) + 1))
    for k, value in enumerate(expected):
        assert torch.equal(got[k], value)


@given(recipes())
def test_planned_shapes_are_real_shapes(recipe):
    net = recipe.build()
    values = reference(net, batch(net))
    assert [node.form.shape for node in net.plan.nodes] == [tuple(v.shape[1:]) for v in values]


@given(recipes(), st.integers(0, 4))
def test_batches_of_any_number_of_rows_and_tokens(recipe, rows):
    net = recipe.build()
    x = batch(net, rows)
    assert torch.allclose(net(x), reference(net, x)[-1])
    tokens = torch.randn(rows, 3, *net.plan.input.shape, dtype=torch.float64)
    flat = net(tokens.reshape(-1, tokens.shape[-1])) if rows else None
    if flat is not None:
        assert torch.allclose(net(tokens).reshape(flat.shape), flat)


@given(recipes())
def test_the_code_shown_runs_by_itself(recipe):
    net = recipe.build()
    x = batch(net)
    space = {"torch": torch, "F": F, "weighted": weighted}
    exec(net.code, space)
    assert torch.equal(space["forward"](net, x), net(x))


# -- gradients ---------------------------------------------------------------------------------------------------------


@given(recipes())
def test_gradients_are_those_of_the_reference(recipe):
    net = recipe.build()
    x = batch(net).requires_grad_()
    parameters = list(net.parameters())
    of_net = torch.autograd.grad(net(x).square().sum(), [x, *parameters], allow_unused=True)
    of_reference = torch.autograd.grad(reference(net, x)[-1].square().sum(), [x, *parameters], allow_unused=True)
    for a, b in zip(of_net, of_reference, strict=True):
        assert (a is None) == (b is None)
        assert a is None or torch.allclose(a, b, rtol=1e-9, atol=1e-12)


@given(recipes(merges=["add", "mean", "gate", "cat"]))
def test_every_parameter_gets_a_gradient(recipe):
    recipe = replace_acts(recipe)
    net = recipe.build()
    net(batch(net)).square().sum().backward()
    assert [name for name, p in net.named_parameters() if p.grad is None] == []


def replace_acts(recipe: Recipe) -> Recipe:
    # relu may be dead for every row, which is no fault of the wiring
    return replace(recipe, acts=[None if a is relu else a for a in recipe.acts])


@settings(max_examples=15)
@given(recipes(most=3, merges=["add", "mul", "mean", "gate", "cat", weighted]))
def test_gradients_agree_with_finite_differences(recipe):
    net = replace_acts(recipe).build()
    assert torch.autograd.gradcheck(net, (batch(net, 2).requires_grad_(),), eps=1e-6, atol=1e-4)


# -- copies ------------------------------------------------------------------------------------------------------------


@given(recipes())
def test_copies_round_trip(recipe):
    net = recipe.build()
    x = batch(net)
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert torch.equal(twin(x), net(x))
        assert list(twin.state_dict()) == list(net.state_dict())
        assert str(twin) == str(net)
    twin = recipe.build()
    with torch.no_grad():
        for p in twin.parameters():
            p.zero_()
    twin.load_state_dict(net.state_dict())
    assert torch.equal(twin(x), net(x))


@given(recipes())
def test_repr_evaluates_to_an_equal_chain(recipe):
    net = recipe.build()
    again = eval(repr(net), {**vars(skipway), "nn": nn, "torch": torch, "F": F, "weighted": weighted})
    assert repr(again) == repr(net)
    assert again.wiring == net.wiring
    again.double().load_state_dict(net.state_dict())
    x = batch(net)
    assert torch.equal(again(x), net(x))


@given(recipes())
def test_the_table_can_be_printed(recipe):
    net = recipe.build()
    lines = str(net).splitlines()
    assert max(map(len, lines)) <= 100
    assert f"{sum(p.numel() for p in net.parameters()):,} parameter" in lines[0]


@given(recipes())
def test_no_tensor_is_alive_afterwards(recipe):
    net = recipe.build()
    x = batch(net)
    y = net(x)
    taps = net.features(x, at=[0, len(net)])
    held = [weakref.ref(t) for t in (x, y, *taps.values())]
    del x, y, taps  # at once: nothing waits for the garbage collector
    assert [r() for r in held] == [None] * len(held)


# -- edits -------------------------------------------------------------------------------------------------------------


@given(recipes(), st.data())
def test_inserting_never_shifts_a_shortcut(recipe, data):
    net = recipe.build()
    at = data.draw(st.integers(0, len(net)))
    name = None if data.draw(st.booleans()) else "new"
    longer = net.insert(at, nn.Identity(), name=name)
    x = batch(net)
    assert torch.equal(longer(x), net(x))
    # and every value of before is still there, under the place it moved to
    for k, value in enumerate(reference(net, x)):
        assert torch.equal(longer.features(x, at=[k + (k > at)])[k + (k > at)], value)


@given(recipes(merges=EQUAL), st.data())
def test_without_equals_rebuilt(recipe, data):
    net = recipe.build()
    gone = data.draw(st.sets(st.sampled_from([s.name for s in recipe.wiring]))) if recipe.wiring else set()
    less = net.without(*gone)
    x = batch(net)
    # the activation after a merge stays where its shortcut goes
    assert torch.equal(less(x), reference(net, x, gone)[-1])
    assert torch.equal(less(x), reference(less, x)[-1])
    assert torch.equal(net(x), reference(net, x)[-1])
    if all(s.act is None for s in recipe.wiring):
        rebuilt = replace(recipe, wiring=[s for s in recipe.wiring if s.name not in gone]).build()
        rebuilt.load_state_dict(less.state_dict())
        assert torch.equal(less(x), rebuilt(x))


@given(recipes(merges=EQUAL))
def test_plain_is_the_layers_alone(recipe):
    net = recipe.build()
    x = batch(net)
    plain = net.plain()
    assert plain.wiring == ()
    assert torch.equal(plain(x), reference(net, x, [s.name for s in recipe.wiring])[-1])


@given(recipes(), st.data())
def test_slices_compose_where_nothing_is_cut(recipe, data):
    net = recipe.build()
    k = data.draw(st.integers(0, len(net)))
    try:
        head, tail = net[:k], net[k:]
    except skipway.ChainError:
        return
    x = batch(net)
    assert torch.equal(tail(head(x)), net(x))


@given(recipes(merges=EQUAL))
def test_rewiring_to_the_same_is_the_same(recipe):
    net = recipe.build()
    x = batch(net)
    same = net.rewire(net.wiring)
    assert torch.equal(same(x), net(x))
    assert {id(p) for p in same.parameters()} == {id(p) for p in net.parameters()}


# -- equivalences ------------------------------------------------------------------------------------------------------


@given(st.integers(1, 6), st.sampled_from(EQUAL), st.sampled_from([None, tanh]))
def test_every_one_is_nested_skips(n, merge, act):
    flat = Chain(*[Dense(3, 3, relu) for _ in range(n)], wiring=every(1, merge=merge, act=act)).double()
    nested = Chain(*[Skip(layer, merge=merge, act=act) for layer in copy.deepcopy(list(flat))]).double()
    nested.load_state_dict(dict(zip(nested.state_dict(), _in_order(flat, nested), strict=True)))
    x = batch(flat)
    assert torch.equal(flat(x), nested(x))


def _in_order(flat: Chain, nested: Chain) -> list[Tensor]:
    held = flat.state_dict()

    def name(key: str) -> str:
        i, rest = key.split(".", 1)
        return f"{i}.{rest[2:]}" if rest.startswith("0.") else rest.replace("input->output", f"{i}->{int(i) + 1}")

    return [held[name(key)] for key in nested.state_dict()]


@given(st.integers(1, 8), st.data())
def test_nesting_where_wirings_nest(n, data):
    """A shortcut around layers a..b is the same written flat and as a Skip around them."""
    a = data.draw(st.integers(0, n - 1))
    b = data.draw(st.integers(a + 1, n))
    layers = [Dense(3, 3, tanh).double() for _ in range(n)]
    flat = Chain(*layers, wiring=[Shortcut(a, b)])
    nested = Chain(*layers[:a], Skip(*layers[a:b]), *layers[b:])
    x = batch(flat)
    assert torch.equal(flat(x), nested(x))


@given(st.integers(2, 9))
def test_patterns_compute_what_they_say(n):
    more = [Shortcut(0, n, name="all")]
    for pattern in (every(1), sliding(2), dense(), log2(), unet(), every(2) + more):
        net = Chain(*[Dense(3, 3, tanh) for _ in range(n)], wiring=pattern).double()
        x = batch(net)
        assert torch.equal(net(x), reference(net, x)[-1])


@pytest.mark.parametrize("opened", [True, False])
def test_a_nested_chain_is_its_layers_in_line(opened):
    layers = [Dense(3, 3, tanh).double() for _ in range(4)]
    wiring = [Shortcut("in_.1", "out")] if opened else []
    nested = Chain(first=layers[0], in_=Chain(*layers[1:3]), out=layers[3], wiring=wiring)
    x = torch.randn(2, 3, dtype=torch.float64)
    flat = Chain(*layers, wiring=[Shortcut(3, 4)] if opened else [])
    assert torch.equal(nested(x), flat(x))


def test_project_recipe_is_one_module_a_shortcut():
    net = Chain(*[Dense(3, 3) for _ in range(4)], wiring=dense(path=Project(always=True)))
    paths = [net.shortcuts[s.label].path for s in net.wiring]
    assert len({id(p) for p in paths}) == len(paths) == 6
