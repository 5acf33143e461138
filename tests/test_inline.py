"""Dense layers written out compute what calling them does, and step back when anything would see the difference."""

import copy
import pickle
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations, prune

from skipway import Chain, Conv, Dense, Flatten, Learned, Shortcut, Skip, cross, dense, every, log2, relu, tie


class Twice(nn.Module):
    """A wrapper, as adapters are: a layer in the place of another."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return 2 * self.inner(x)


def double(net):
    return net.double().eval()


def seen(net, width=6, rows=3):
    """An input that the chain has met often enough to run as it always will."""
    x = torch.randn(rows, width, dtype=next(net.parameters()).dtype)
    net(x), net(x)
    return x


def serves(net):
    return net._inlined.serves(net)


def called(net, x):
    """What the chain computes by calling its layers: the code that it shows."""
    return net._run(net, x)


def row(**options):
    return double(Chain(Dense(6, 6, relu), Dense(6, 6, torch.tanh), Dense(6, 6), **{"wiring": every(1), **options}))


WIRINGS = {
    "every": every(1), "two": every(2), "dense": dense(merge="add"), "log2": log2(), "cross": cross(),
    "projected": every(1, path="project"), "scaled": every(1, scale=Learned(0.5)), "gates": every(1, merge="gate"),
}  # fmt: skip


@given(
    wiring=st.sampled_from(sorted(WIRINGS)),
    widths=st.lists(st.sampled_from([4, 6]), min_size=2, max_size=6),
    bias=st.booleans(),
    act=st.sampled_from([None, relu, torch.tanh, F.gelu]),
)
def test_values_and_gradients_are_those_of_the_code_that_is_shown(wiring, widths, bias, act):
    widths = widths if wiring == "projected" else [6] * len(widths)
    layers = [Dense(a, b, act, bias=bias) for a, b in zip([6, *widths[:-1]], widths, strict=True)]
    net = double(Chain(*layers, wiring=WIRINGS[wiring]))
    x = seen(net)
    assert serves(net)
    outs = [run(net, x) for run in (type(net).__call__, called)]
    grads = [torch.autograd.grad(out.square().sum(), list(net.parameters()), allow_unused=True) for out in outs]
    assert torch.equal(*outs)
    for ours, theirs in zip(*grads, strict=True):
        assert ours is theirs is None or torch.equal(ours, theirs)


def test_dense_layers_are_multiplied_without_being_called():
    net = row(wiring=every(1, path="project"))
    seen(net)
    assert net._inlined.source.count("F.linear(") == 3
    assert "layer[" not in net._inlined.source
    assert "F.linear" not in net.code  # what is shown stays what one would write


def test_projections_are_written_out_too():
    net = double(Chain(Dense(6, 5), Dense(5, 4), wiring=every(1, path="project")))
    seen(net)
    assert net._inlined.source.count("F.linear(") == 4


def test_torch_s_own_linear_is_written_out_and_other_layers_are_called():
    net = double(Chain(nn.Linear(6, 6), nn.LayerNorm(6), nn.Linear(6, 6), wiring=[Shortcut(1, 3)]))
    x = seen(net)
    assert net._inlined.source.count("F.linear(") == 2
    assert serves(net)
    assert torch.equal(net(x), called(net, x))


def test_a_chain_without_dense_layers_has_nothing_to_write_out():
    net = double(Chain(Conv(1, 2, 3), Flatten(), input=(1, 4, 4)))
    x = torch.randn(2, 1, 4, 4, dtype=torch.float64)
    net(x), net(x)
    assert not serves(net)


def test_an_activation_that_is_a_module_is_called():
    net = double(Chain(Dense(6, 6, nn.PReLU()), Dense(6, 6)))
    x = seen(net)
    assert net._inlined.source.count("F.linear(") == 1
    assert torch.equal(net(x), called(net, x))


def test_tied_layers_share_their_weights():
    shared = tie(Dense(6, 6, relu))
    net = double(Chain(shared, shared, shared, wiring=every(1)))
    x = seen(net)
    assert len(net._inlined._layers) == 1
    assert torch.equal(net(x), called(net, x))


# -- who looks on ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hook", ["register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook"])
def test_a_hook_on_a_layer_is_called_until_it_is_removed(hook):
    net, calls = row(), []
    x = seen(net).requires_grad_()
    handle = getattr(net[1], hook)(lambda *_: calls.append(1))
    net(x).sum().backward()
    assert calls == [1]
    assert not serves(net)
    handle.remove()
    net(x).sum().backward()
    assert calls == [1]
    assert serves(net)


def test_a_hook_on_every_module_is_called():
    net, calls = row(), []
    x = seen(net)
    handle = nn.modules.module.register_module_forward_hook(lambda module, *_: calls.append(type(module)))
    try:
        net(x)
    finally:
        handle.remove()
    assert calls == [Dense, Dense, Dense, Chain]
    assert serves(net)


def test_hooks_of_an_opened_chain_are_called():
    net = double(Chain(Dense(6, 6), Chain(inner=Dense(6, 6), last=Dense(6, 6)), wiring=[Shortcut("input", "1.inner")]))
    x, calls = seen(net), []
    assert serves(net)
    net[1].register_forward_hook(lambda *_: calls.append(1))
    net(x)
    assert calls == [1]


def test_a_hook_on_a_projection_is_called():
    net, calls = double(Chain(Dense(6, 4), wiring=every(1, path="project"))), []
    x = seen(net)
    net.shortcuts["0->1"].path.register_forward_hook(lambda *_: calls.append(1))
    net(x)
    assert calls == [1]


def replaced_by_attribute(net):
    setattr(net, "1", Twice(net[1]))


def replaced_behind_the_back(net):
    net._modules["1"] = Twice(net._modules["1"])


def own_forward(net):
    inner = net[1].forward
    net[1].forward = lambda x: 2 * inner(x)


def parametrized(net):
    parametrizations.weight_norm(net[1])
    with torch.no_grad():
        net[1].parametrizations.weight.original0.mul_(2)


def pruned(net):
    prune.l1_unstructured(net[1], "weight", 0.5)


def another_act(net):
    net[1].act = F.gelu


def no_act(net):
    net[1].act = None


def an_act_with_weights(net):
    net[1].act = nn.PReLU(dtype=torch.float64)


def another_parameter(net):
    net[1].weight = nn.Parameter(torch.randn(6, 6, dtype=torch.float64))


def weights_that_are_no_parameters(net):
    weight = 3 * net[1].weight.detach()
    del net[1].weight
    net[1].weight = weight


def another_precision_and_back(net):
    with torch.no_grad():
        net.float().double()[0].weight.mul_(2)


CHANGES = [
    replaced_by_attribute, replaced_behind_the_back, own_forward, parametrized, pruned, another_act,
    no_act, an_act_with_weights, another_parameter, weights_that_are_no_parameters, another_precision_and_back,
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_changed_on_a_layer_is_heeded(change):
    net = row()
    x = seen(net)
    before = net(x)
    change(net)
    assert torch.equal(net(x), called(net, x))
    assert not torch.equal(net(x), before)


def test_another_projection_is_heeded():
    net = double(Chain(Dense(6, 5, relu), Dense(5, 6), wiring=[Shortcut(0, 1, path="project")]))
    x = seen(net)
    fresh = copy.deepcopy(net.shortcuts["0->1"].path)
    nn.init.zeros_(fresh.weight)
    net.shortcuts["0->1"].path = fresh
    assert torch.equal(net(x), net[1](net[0](x)))


def test_another_forward_of_the_class_is_heeded():
    net = row()
    x = seen(net)
    with mock.patch.object(Dense, "forward", lambda self, x: torch.zeros_like(x)):
        assert torch.equal(net(x), x)
    assert serves(net)


def test_another_forward_of_the_class_is_heeded_from_the_first_call_on():
    net = row()
    with mock.patch.object(Dense, "forward", lambda self, x: torch.zeros_like(x)):
        x = seen(net)
        assert torch.equal(net(x), x)
    assert serves(net)
    assert torch.equal(net(x), called(net, x))


def test_a_tool_that_sees_all_calls_sees_them_from_the_first_on():
    net, calls, call = row(), [], nn.Module.__call__
    with mock.patch.object(nn.Module, "__call__", lambda self, x: calls.append(type(self)) or call(self, x)):
        x = seen(net)
        calls.clear()
        net(x)
    assert calls == [Chain, Dense, Dense, Dense]
    assert serves(net)


def test_a_hook_from_before_the_first_call_is_called():
    net, calls = row(), []
    handle = net[1].register_forward_hook(lambda *_: calls.append(1))
    net(seen(net))
    assert len(calls) == 3
    handle.remove()
    assert serves(net)


def test_a_layer_that_is_compiled_alone_is_called():
    net = row()
    x = seen(net)
    net[1].compile(backend="eager")
    assert not serves(net)
    with torch.no_grad():
        assert torch.equal(net(x), called(net, x))


def test_weights_of_a_functional_call_are_used():
    net = row()
    x = seen(net)
    zeros = {name: torch.zeros_like(p) for name, p in net.named_parameters()}
    assert torch.equal(torch.func.functional_call(net, zeros, (x,)), x)


def test_gradients_for_each_sample():
    net = row()
    x, params = seen(net), dict(net.named_parameters())

    def loss(params, one):
        return torch.func.functional_call(net, params, (one[None],)).square().sum()

    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(params, x)
    for i, one in enumerate(x):
        expected = torch.autograd.grad(called(net, one[None]).square().sum(), params.values())
        for got, want in zip(each.values(), expected, strict=True):
            torch.testing.assert_close(got[i], want, rtol=1e-12, atol=1e-12)


def test_copies_have_weights_of_their_own():
    net = row()
    x = seen(net)
    before = net(x)
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        with torch.no_grad():
            for p in twin.parameters():
                p.zero_()
        twin(x)
        assert torch.equal(twin(x), x)
        assert torch.equal(net(x), before)


def test_a_replica_uses_its_own_weights():
    net = row()
    x = seen(net)
    replica = net._replicate_for_data_parallel()
    for key, layer in net._modules.items():
        twin = layer._replicate_for_data_parallel()
        twin.weight, twin.bias = torch.zeros_like(layer.weight), torch.zeros_like(layer.bias)
        replica._modules[key] = twin
    assert torch.equal(replica(x), x)


def test_autocast_multiplies_in_the_lower_precision():
    net = Chain(Dense(6, 6, relu), Skip(Dense(6, 6)))
    x = seen(net)
    with torch.autocast("cpu", torch.bfloat16):
        assert net[0](x).dtype is torch.bfloat16
        assert torch.equal(net(x), called(net, x))


def test_shared_layers_change_for_all_chains_at_once():
    net = row()
    x = seen(net)
    plain = net.plain()
    plain(x), plain(x)
    with torch.no_grad():
        net[0].weight.zero_()
    assert torch.equal(plain(x), called(plain, x))
    assert torch.equal(net(x), called(net, x))


def test_no_attribute_of_a_chain_changes_with_its_forwards():
    """Who remembers how a net was, as recorded steps of training do, would take it for another."""
    net = row()
    before = {name: id(value) for name, value in vars(net).items() if name != "_used"}
    seen(net)
    assert serves(net)
    assert {name: id(value) for name, value in vars(net).items() if name != "_used"} == before


def test_an_input_that_does_not_fit_is_named_as_before():
    net = row()
    seen(net)
    with pytest.raises(Exception, match="does not fit this chain"):
        net(torch.zeros(2, 5, dtype=torch.float64))
    with pytest.raises(Exception, match=r"x\.to\(torch\.float64\)"):
        net(torch.zeros(2, 6))
