"""When the dense block engine runs, when it leaves the work to the generated code, and that nothing else changes."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import weakref

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

import skipway.engines.run as rules
from skipway import BatchNorm, Cat, Chain, ChainError, Conv, Dropout, dense, gelu, relu
from skipway.compiling import compile_alone
from skipway.engines import explain, use_engines
from skipway.zoo.densenet import block, layer


def on_engine(value):
    return type(value.grad_fn).__name__ == "DenseBlockBackward"


@pytest.fixture
def net():
    made = block(3, 2).build((3, 4, 4)).double()
    use_engines(made, "keep")
    return made


@pytest.fixture
def x():
    return torch.randn(4, 3, 4, 4, dtype=torch.float64)


def plain_twin(net):
    twin = copy.deepcopy(net)
    use_engines(twin, "off")
    return twin


def grads(net):
    return [p.grad for p in net.parameters()]


def equal(mine, theirs):
    pairs = [(a.detach(), b.detach()) for a, b in zip(mine, theirs, strict=True)]
    # what should be 0 (the bias of a convolution before a norm, say) is rounding of what was far larger
    least = 1e-2 * max(b.abs().max() for _, b in pairs)
    return all((a - b).abs().max() <= 1e-12 * torch.maximum(b.abs().max(), least) for a, b in pairs)


# -- what speaks against it --------------------------------------------------------------------------------------------


def _norm_in_eval(net):
    net[1][3].eval()


def _hook(net):
    net[1][2].register_forward_hook(lambda *_: None)


def _hook_of_a_layer(net):
    net[2].register_full_backward_hook(lambda *_: None)


def _forward_of_its_own(net):
    net[0][0].forward = lambda x: BatchNorm.forward(net[0][0], x)


def _parametrized(net):
    parametrizations.weight_norm(net[0][2])


def _grouped(net):
    net[0].add_module("5", Conv(8, 2, 3, padding=1, groups=2, bias=False).double())


def _no_beta(net):
    net[1][0].bias = None


def _padding_as_a_number(net):
    net[2][5].padding = 1


def _other_activation(net):
    net[1].add_module("1", gelu)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_norm_in_eval, "a batch norm of layer '1' is in eval mode"),
        (_hook, "layer '1' has hooks"),
        (_hook_of_a_layer, "layer '2' has hooks"),
        (_forward_of_its_own, "layer '0' has hooks, or a forward of its own"),
        (_parametrized, "layer '0' has a ParametrizedConv2d where a convolution of images would be"),
        (_grouped, "layer '0' its convolution has stride=(1, 1) and groups=2"),
        (_no_beta, "layer '1' its batch norm has no gamma and beta"),
        (_padding_as_a_number, "layer '2' its convolution has padding=1"),
        (_other_activation, "layer '1' has gelu where a relu would be"),
        (lambda net: use_engines(net, "off"), "switched off"),
    ],
)  # fmt: skip
def test_a_changed_net_runs_its_generated_code_and_says_why(net, x, change, says):
    assert on_engine(net(x))
    change(net)
    assert not on_engine(net(x))
    (use,) = net.engines
    assert says in use.refusal
    assert says in str(use)


def test_hooks_on_all_modules_see_them(net, x):
    seen = []
    handle = nn.modules.module.register_module_forward_hook(lambda module, *_: seen.append(module))
    try:
        assert not on_engine(net(x))
    finally:
        handle.remove()
    assert net[1][0] in seen
    assert on_engine(net(x))


@pytest.mark.parametrize(
    ("layers", "says"),
    [
        (lambda: layer(2, dropout=0.1), "has 8 parts (BatchNorm, relu, Conv2d, Dropout, BatchNorm, relu, Conv2d, ...)"),
        (lambda: Chain(BatchNorm(affine=False), relu, Conv(..., 2, 1)), "its batch norm has no gamma and beta"),
        (lambda: Chain(BatchNorm(), relu, Conv(..., 2, 3, relu, padding=1)), "its convolution has an activation"),
        (lambda: Chain(Conv(..., 2, 1), BatchNorm(), relu), "has a Conv2d where a batch norm would be"),
        (lambda: Chain(BatchNorm(), relu, Conv(..., 4, 3, padding=1), BatchNorm(), relu, Conv(..., 2, 1)),
         "its first convolution has a (3, 3) kernel"),
        (lambda: Chain(BatchNorm(), relu, Conv(..., 2, 3, padding="same")), "padding='same'"),
    ],
)  # fmt: skip
def test_other_layers_are_not_for_it(layers, says, x):
    net = Chain(layers(), layers(), wiring=dense(merge=Cat(first="shortcut"))).build((3, 4, 4)).double()
    use_engines(net, "keep")
    assert not on_engine(net(x))
    assert says in net.engines[0].refusal


def test_only_dense_concatenation_of_two_layers_or_more_is_for_it():
    for wiring in (dense(merge="cat"), dense(), ()):
        same = [Chain(BatchNorm(), relu, Conv(..., 3, 3, padding=1)) for _ in range(3)]
        assert Chain(*same, wiring=wiring).build((3, 4, 4)).engines == ()
    assert block(1, 2).build((3, 4, 4)).engines == ()


def test_input_of_another_kind_is_left_to_the_generated_code(net, x):
    def why(net, x):
        left = not on_engine(copy.deepcopy(net)(x))
        (use,) = explain(net, x)
        assert left == bool(use.refusal)
        return use.refusal

    before = [b.clone() for b in net.buffers()]
    assert why(net, x) == ""
    with torch.no_grad():
        assert why(net, x) == "no gradients are recorded"
    with torch.autocast("cpu", torch.bfloat16):
        assert why(copy.deepcopy(net).float(), x.float()) == "autocast is on"
    half = copy.deepcopy(net).to(torch.bfloat16)
    assert why(half, x.to(torch.bfloat16)) == "its input is torch.bfloat16 on cpu"
    frozen = copy.deepcopy(net).requires_grad_(False)
    assert why(frozen, x) == "nothing needs a gradient"
    assert why(frozen, x.clone().requires_grad_()) == ""
    assert why(net, x[:1]) == ""
    assert not on_engine(copy.deepcopy(net).eval()(x.requires_grad_()))
    assert all(map(torch.equal, before, net.buffers()))
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        net(torch.randn(1, 3, 1, 1, dtype=torch.float64))


def test_auto_runs_it_where_there_is_enough_to_do(net, x, monkeypatch):
    use_engines(net, "auto")
    assert not on_engine(net(x))
    monkeypatch.setattr(rules, "SMALL", 4 * 4 * 4 * 9)
    assert on_engine(net(x))
    monkeypatch.setattr(rules, "SMALL", 4 * 4 * 4 * 9 + 1)
    assert not on_engine(net(x))


def test_the_switch_reaches_chains_inside_and_knows_its_words():
    net = nn.Sequential(Chain(Conv(3, 4, 1), block(2, 2), input=(3, 4, 4)), nn.Flatten())
    use_engines(net, "keep")
    assert on_engine(net[0](torch.randn(2, 3, 4, 4)))
    (use,) = net[0].engines
    assert (use.where, use.what, use.refusal) == ("1", "dense block of 2 layers", "")
    with pytest.raises(ChainError, match=r"no mode 'of': did you mean 'off'\?"):
        use_engines(net, "of")


# -- transforms and compilers ------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")  # torch's own, in forward_ad
def test_transforms_see_the_generated_code(net, x):
    weights = {name: p.detach() for name, p in net.named_parameters()}
    buffers = dict(net.named_buffers())

    def loss(weights, x):
        return (
            torch.func.functional_call(net, (weights, {k: b.clone() for k, b in buffers.items()}), (x,)).square().sum()
        )

    got = torch.func.grad(loss)(weights, x)
    twin = plain_twin(net)
    twin(x).square().sum().backward()
    assert equal(got.values(), grads(twin))
    with forward_ad.dual_level():
        out = net(forward_ad.make_dual(x, torch.ones_like(x)))
        assert forward_ad.unpack_dual(out).tangent is not None


def test_a_compiled_net_is_the_generated_code(net, x):
    twin = plain_twin(net)
    compiled = compile_alone(copy.deepcopy(net), backend="eager", fullgraph=True)
    assert torch.equal(compiled(x), twin(x))
    assert "dense_block" not in net.code


# -- an ordinary net in every other way --------------------------------------------------------------------------------


def test_second_derivatives_are_those_of_the_generated_code(net, x):
    twin = plain_twin(net)
    x.requires_grad_()
    found = []
    for one in (net, twin):
        out = one(x)
        (first,) = torch.autograd.grad(out.square().sum(), x, create_graph=True)
        first.square().sum().backward()
        found.append([first.detach(), x.grad.clone(), *grads(one)])
        x.grad = None
    assert on_engine(net(x))
    assert not on_engine(twin(x))
    assert equal(*found)


def test_batches_of_gradients_are_those_of_the_generated_code(net, x):
    twin, batch = plain_twin(net), torch.randn(3, 4, 9, 4, 4, dtype=torch.float64)
    x.requires_grad_()
    found = []
    for one in (net, twin):
        inputs = (x, *one.parameters())
        found.append(torch.autograd.grad(one(x), inputs, batch, is_grads_batched=True))
    assert equal(*found)
    rows = [torch.autograd.grad(net(x), x, one)[0] for one in batch]
    assert equal([found[0][0]], [torch.stack(rows)])


def test_a_retained_graph_gives_the_same_again(net, x):
    out = net(x).square().sum()
    first = torch.autograd.grad(out, list(net.parameters()), retain_graph=True)
    assert all(map(torch.equal, first, torch.autograd.grad(out, list(net.parameters()))))
    with pytest.raises(RuntimeError, match="second time"):
        out.backward()


def test_what_comes_out_may_be_changed_in_place(net, x):
    twin = plain_twin(net)
    for changed in (x, x.contiguous(memory_format=torch.channels_last), torch.randn(6, 3, 1, 1, dtype=torch.float64)):
        for one in (net, twin):
            one.zero_grad()
            out = one(changed)
            assert out.stride() == twin(changed).stride()
            out.relu_().sum().backward()
        assert equal(grads(net), grads(twin))


def test_copies_and_pickles_run_on_it_too_with_parameters_of_their_own(net, x):
    use_engines(net, "recompute")
    file = io.BytesIO()
    torch.save(net, file)
    file.seek(0)
    net(x)  # statistics of the copies do not move with it
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net)), torch.load(file, weights_only=False)):
        assert other._engine == "recompute"
        out = other(x)
        assert on_engine(out)
        out.sum().backward()
        assert all(p.grad is not None for p in other.parameters())
    assert grads(net) == [None] * len(grads(net))
    assert list(net.state_dict()) == list(plain_twin(net).state_dict())


def test_checkpointing_computes_it_twice_and_the_same(net, x):
    twin = plain_twin(net)
    for again in (True, False):
        for one in (net, twin):
            one.zero_grad()
            checkpoint(one, x.requires_grad_(), use_reentrant=again).square().sum().backward()
        assert equal(grads(net), grads(twin))
    assert equal([b.double() for b in net.buffers()], [b.double() for b in twin.buffers()])


def test_features_train_too(net, x):
    got = net.features(x, at=["1", "output"])
    twin = plain_twin(net)
    assert torch.equal(got["output"], twin(x))
    got["1"].sum().backward()
    assert net[0][2].weight.grad is not None


def test_saved_tensors_may_live_elsewhere(net, x):
    twin = plain_twin(net)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t.contiguous().clone(), lambda t: t):
        out = net(x)
    out.square().sum().backward()
    twin(x).square().sum().backward()
    assert on_engine(out)
    assert equal(grads(net), grads(twin))


def test_hooks_of_parameters_run(net, x):
    seen = []
    for p in net.parameters():
        p.register_post_accumulate_grad_hook(lambda p: seen.append(p.shape))
    net(x).sum().backward()
    assert len(seen) == len(list(net.parameters()))


def test_nothing_is_left_of_a_pass(net, x):
    out = net(x)
    kept = [weakref.ref(out), weakref.ref(out.grad_fn)]
    out.sum().backward()
    gc.disable()
    try:
        del out
        assert [ref() for ref in kept] == [None, None]  # at once: there is no cycle
    finally:
        gc.enable()
    for module in net.modules():
        own = {*module._parameters, *module._buffers}
        held = {name for name, value in vars(module).items() if isinstance(value, torch.Tensor)}
        assert held <= own


def test_layers_of_torch_and_rows_of_them_are_read_too(x):
    def torchs(width):
        return nn.Sequential(
            nn.Sequential(nn.BatchNorm2d(width), nn.ReLU(inplace=True), nn.Conv2d(width, 8, 1)),
            nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 2, 3, padding=1),
        )  # fmt: skip

    net = Chain(torchs(3), torchs(5), torchs(7), wiring=dense(merge=Cat(first="shortcut"))).double()
    use_engines(net, "keep")
    twin = plain_twin(net)
    out = net(x)
    assert on_engine(out)
    out.square().sum().backward()
    twin(x).square().sum().backward()
    assert equal(grads(net), grads(twin))


def test_dropout_between_blocks_draws_the_same_numbers():
    net = Chain(block(2, 2), Dropout(0.5), block(2, 2), input=(3, 4, 4)).double()
    use_engines(net, "keep")
    twin = plain_twin(net)
    x = torch.randn(4, 3, 4, 4, dtype=torch.float64)
    torch.manual_seed(3)
    mine = net(x)
    torch.manual_seed(3)
    assert equal([mine], [twin(x)])


@pytest.mark.alone
def test_a_distributed_net_trains(net, x, tmp_path):
    twin = plain_twin(net)
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    out = nn.parallel.DistributedDataParallel(net)(x)
    out.square().sum().backward()
    twin(x).square().sum().backward()
    assert equal(grads(net), grads(twin))
