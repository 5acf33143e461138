"""The chain among the tools that PyTorch users have: it is an ordinary module to all of them."""

import copy
import os
import warnings

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.utils import parametrizations, prune
from torch.utils.checkpoint import checkpoint

from skipway import (
    BatchNorm,
    Chain,
    Conv,
    Dense,
    GlobalAvgPool,
    Learned,
    Parallel,
    Project,
    Shortcut,
    Skip,
    dense,
    every,
    relu,
)


class Scale:
    """A plain callable with a parameter."""

    def __init__(self) -> None:
        self.by = nn.Parameter(torch.full((6,), 1.5))

    def __call__(self, x: Tensor) -> Tensor:
        return x * self.by


@pytest.fixture(autouse=True)
def fresh_compiler():
    # torch's compiler keeps what it made of one chain for the next, and does not look at hooks again
    torch._dynamo.reset()


def flat():
    return Chain(
        stem=Dense(4, 6, relu),
        a=Dense(6, 6, torch.tanh),
        scale=Scale(),
        head=Dense(..., 3),
        wiring=[
            Shortcut("stem", "scale", scale=Learned(0.5)),
            Shortcut("input", "a", path="project"),
            Shortcut("a", "scale", merge="cat"),
        ],
    )


def opened():
    return Chain(
        stem=Dense(4, 6, relu),
        mid=Chain(a=Dense(6, 6, torch.tanh), b=Dense(6, 6)),
        c=Dense(6, 6),
        d=Dense(..., 3),
        wiring=[
            Shortcut("stem", "mid.b"),
            Shortcut("mid.a", "c", merge="cat"),
            Shortcut("input", "mid.a", path="project"),
        ],
    )


def nested():
    return Chain(
        Dense(4, 6), Skip(Dense(6, 6, relu), Skip(Dense(6, 6)), merge="gate"), Parallel(Dense(6, 3), Dense(6, 3))
    )


NETS = pytest.mark.parametrize("make", [flat, opened, nested])


# -- training ----------------------------------------------------------------------------------------------------------


@NETS
def test_an_optimizer_built_before_the_first_forward_trains_everything(make, x4):
    net = make()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.1)
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    net(x4).square().sum().backward()
    optimizer.step()
    assert [name for name, p in net.named_parameters() if torch.equal(p, before[name])] == []


@NETS
@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_gives_equal_gradients(make, reentrant, x4):
    net = make()

    def gradients(run):
        net.zero_grad()
        x = x4.clone().requires_grad_()
        run(x).square().sum().backward()
        return [x.grad, *(p.grad.clone() for p in net.parameters())]

    plain = gradients(net)
    again = gradients(lambda x: checkpoint(net, x, use_reentrant=reentrant))
    assert all(torch.equal(a, b) for a, b in zip(plain, again, strict=True))


def test_checkpointing_a_random_drop_draws_the_same_twice():
    net = Chain(Dense(4, 4), wiring=every(1, drop=0.5)).train()
    x = torch.randn(16, 4, requires_grad=True)
    out = checkpoint(net, x, use_reentrant=False)
    (gradient,) = torch.autograd.grad(out.sum(), x)
    kept = (out - x).abs().sum(1) > 0
    weight = net[0].weight.sum(0)
    expected = torch.where(kept[:, None], 1 + 2 * weight, torch.ones(4))
    assert torch.allclose(gradient, expected, atol=1e-5)


def meet(folder):
    """A process group of this process, which is not taken down: a test that makes it is marked ``alone``."""
    warnings.simplefilter("ignore")
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=0, world_size=1)


@pytest.mark.alone
def test_data_parallel_of_one_process(x4, tmp_path):
    meet(tmp_path)
    for make in (flat, opened, nested):
        net = make()
        wrapped = nn.parallel.DistributedDataParallel(net)
        out = wrapped(x4)
        out.square().sum().backward()
        assert torch.equal(out, net(x4))
        assert all(p.grad is not None for p in net.parameters())


@pytest.mark.alone
def test_fully_sharded(x4, tmp_path):
    from torch.distributed.fsdp import fully_shard

    meet(tmp_path)
    mesh = dist.device_mesh.init_device_mesh("cpu", (1,))
    for make in (opened, nested):  # torch shards no parameter that is a single number
        net = make()
        plain = copy.deepcopy(net)
        fully_shard(net[1], mesh=mesh)
        fully_shard(net, mesh=mesh)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        for _ in range(2):  # parameters are put together for each forward, and taken apart after it
            out = net(x4)
            assert torch.allclose(out, plain(x4), atol=1e-6)
            out.square().sum().backward()
            plain.zero_grad()
            plain(x4).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
            with torch.no_grad():
                for p in plain.parameters():
                    p -= 0.1 * p.grad
        state = {name: p.full_tensor() for name, p in net.state_dict().items()}
        assert all(torch.allclose(p, state[name], atol=1e-6) for name, p in plain.state_dict().items())


@pytest.mark.parametrize("make", [opened, nested])
def test_parameters_that_are_there_only_during_a_forward(make, x4):
    """As sharded training had it: all weights as views of one flat parameter, put in before a forward, gone after."""
    net = make()
    plain = copy.deepcopy(net)
    held = [(m, name, p.shape) for m in net.modules() for name, p in m._parameters.items() if p is not None]
    flat_parameter = nn.Parameter(torch.cat([m._parameters[name].detach().flatten() for m, name, _ in held]))

    def put_in(module, args):
        sizes = [shape.numel() for _, _, shape in held]
        for (owner, name, shape), part in zip(held, flat_parameter.split(sizes), strict=True):
            owner._parameters.pop(name, None)
            setattr(owner, name, part.view(shape))

    def take_out(module, args, out):
        for owner, name, _ in held:
            delattr(owner, name)

    for owner, name, _ in held:
        owner._parameters.pop(name)
    net.register_forward_pre_hook(put_in)
    net.register_forward_hook(take_out)
    out = net(x4)
    assert torch.equal(out, plain(x4))
    out.square().sum().backward()
    plain(x4).square().sum().backward()
    gradients = [p.grad.flatten() for m in plain.modules() for p in m._parameters.values() if p is not None]
    assert torch.allclose(flat_parameter.grad, torch.cat(gradients), atol=1e-6)


@NETS
def test_conversions_that_swap_tensors(make, x4):
    net = make()
    with torch.no_grad():  # tensors that a graph holds cannot be swapped
        expected = net(x4)
    parameters = list(net.parameters())
    before = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        net.to(torch.float64)
    finally:
        torch.__future__.set_swap_module_params_on_conversion(before)
    assert all(p is q for p, q in zip(net.parameters(), parameters, strict=True))
    assert torch.allclose(net(x4.double()).float(), expected, atol=1e-5)


def test_averaged_models_copy_a_chain(x4):
    net = flat()
    average = torch.optim.swa_utils.AveragedModel(net)
    average.update_parameters(net)
    assert torch.allclose(average(x4), net(x4))


# -- precision, devices, modes -----------------------------------------------------------------------------------------


@NETS
def test_autocast(make, x4):
    net = make()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = net(x4)
    assert torch.allclose(out.float(), net(x4), atol=0.1)
    out.float().square().sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in net.parameters())


def test_autocast_of_images_with_norms():
    net = Chain(
        Conv(3, 8, 3, relu, padding=1),
        Skip(Conv(8, 8, 3, padding=1), BatchNorm(), merge="gate"),
        Conv(8, 8, 3, padding=1),
        GlobalAvgPool(),
        input=(3, 8, 8),
        wiring=[Shortcut(0, 3, path=Project(norm=BatchNorm)), Shortcut(1, 2, merge="max")],
    )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        net(torch.randn(2, 3, 8, 8)).float().sum().backward()
    assert all(p.grad is not None for p in net.parameters())


@NETS
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions(make, dtype, x4):
    net = make()
    expected = net(x4)
    got = net.to(dtype)(x4.to(dtype))
    assert got.dtype == dtype
    assert torch.allclose(got.float(), expected, atol=0.1 if dtype == torch.bfloat16 else 1e-5)


@NETS
def test_the_meta_device(make):
    net = make().to("meta")
    assert net(torch.empty(5, 4, device="meta")).shape == (5, 3)
    with torch.device("meta"):
        born = make()
    assert {t.device.type for t in born.parameters()} == {"meta"}
    assert born.to_empty(device="cpu")(torch.zeros(5, 4)).shape == (5, 3)


@NETS
def test_inference_mode_and_no_grad(make, x4):
    net = make()
    expected = net(x4)
    for mode in (torch.inference_mode, torch.no_grad):
        with mode():
            assert torch.equal(net(x4), expected)
            fresh = make()
            assert fresh(torch.zeros(2, 4)).shape == (2, 3)
            assert fresh(torch.zeros(2, 5, 4)).shape == (2, 5, 3)
    assert net(x4).requires_grad


def test_channels_last():
    net = Chain(
        Conv(3, 8, 3, relu, padding=1), Conv(8, 8, 3, padding=1), wiring=every(1, path="project"), input=(3, 8, 8)
    )
    x = torch.randn(2, 3, 8, 8)
    expected = net(x)
    net = net.to(memory_format=torch.channels_last)
    got = net(x.to(memory_format=torch.channels_last))
    assert got.is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(got, expected, atol=1e-5)


# -- hooks -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [opened, nested])
def test_forward_hooks_of_a_nested_chain(make, x4):
    net = make()
    inner = net[1]
    seen = []
    inner.register_forward_pre_hook(lambda m, args: seen.append(("pre", m, args[0].shape)))
    inner.register_forward_hook(lambda m, args, out: seen.append(("post", m, args[0].shape, out.shape)))
    net(x4)
    assert seen == [("pre", inner, (3, 6)), ("post", inner, (3, 6), (3, 6))]


@pytest.mark.parametrize("make", [opened, nested])
def test_forward_hooks_may_change_what_passes(make, x4):
    net = make()
    before = net(x4)
    handle = net[1].register_forward_hook(lambda m, args, out: out * 2)
    assert not torch.equal(net(x4), before)
    handle.remove()
    assert torch.equal(net(x4), before)
    handle = net[1].register_forward_pre_hook(lambda m, args: (args[0] * 2,))
    assert not torch.equal(net(x4), before)
    handle.remove()
    assert torch.equal(net(x4), before)


@pytest.mark.parametrize("make", [opened, nested])
def test_forward_hooks_with_kwargs(make, x4):
    net, seen = make(), []
    net[1].register_forward_pre_hook(lambda m, args, kwargs: seen.append(kwargs), with_kwargs=True)
    net[1].register_forward_hook(lambda m, args, kwargs, out: seen.append(kwargs), with_kwargs=True)
    net(x4)
    assert seen == [{}, {}]


@pytest.mark.parametrize("make", [opened, nested])
def test_backward_hooks_of_a_nested_chain(make, x4):
    net, seen = make(), []
    net[1].register_full_backward_pre_hook(lambda m, grad_out: seen.append("pre"))
    net[1].register_full_backward_hook(lambda m, grad_in, grad_out: seen.append([g.shape for g in grad_in]))
    net(x4).sum().backward()
    assert seen == ["pre", [(3, 6)]]


@NETS
def test_hooks_of_layers_and_of_the_net(make, x4):
    net, seen = make(), []
    net.register_forward_hook(lambda m, args, out: seen.append("net"))
    net.register_full_backward_hook(lambda m, gi, go: seen.append("net back"))
    net[0].register_forward_hook(lambda m, args, out: seen.append("layer"))
    net[0].register_full_backward_hook(lambda m, gi, go: seen.append("layer back"))
    net(x4.requires_grad_()).sum().backward()
    assert seen == ["layer", "net", "layer back", "net back"] or seen == ["layer", "net", "net back", "layer back"]


def test_hooks_of_what_a_shortcut_owns(x4):
    net, seen = flat(), []
    net.shortcuts["input->a"].path.register_forward_hook(lambda m, args, out: seen.append(out.shape))
    net(x4)
    assert seen == [(3, 6)]


# -- compilers ---------------------------------------------------------------------------------------------------------


@NETS
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compile_the_whole_graph(make, backend, x4):
    net = make()
    compiled = torch.compile(net, backend=backend, fullgraph=True)
    assert torch.allclose(compiled(x4), net(x4), atol=1e-6)
    compiled(x4).square().sum().backward()
    of_compiled = [p.grad.clone() for p in net.parameters()]
    net.zero_grad()
    net(x4).square().sum().backward()
    assert all(torch.allclose(a, p.grad, atol=1e-5) for a, p in zip(of_compiled, net.parameters(), strict=True))


def test_compile_before_the_first_forward_and_for_other_shapes():
    net = flat()
    compiled = torch.compile(net, backend="eager", fullgraph=True, dynamic=True)
    for rows in (1, 2, 5, 3):
        x = torch.randn(rows, 4)
        assert torch.equal(compiled(x), net(x))


def test_compile_follows_a_change_of_mode():
    net = Chain(Dense(4, 4), wiring=every(1, drop=0.5))
    compiled = torch.compile(net, backend="eager")
    x = torch.ones(64, 4)
    dropped = (compiled.train()(x) - x).abs().sum(1) == 0
    assert 0 < dropped.sum() < 64
    assert torch.equal(compiled.eval()(x), net[0](x) + x)


def test_compile_keeps_the_hooks_of_a_nested_chain(x4):
    net = opened()
    net["mid"].register_forward_hook(lambda m, args, out: out * 2)
    assert torch.equal(torch.compile(net, backend="eager")(x4), net(x4))


@pytest.mark.slow
def test_compile_with_inductor(x4):
    import shutil

    if not (shutil.which(os.environ.get("CXX", "g++")) or shutil.which("clang++")):
        pytest.skip("inductor needs a C++ compiler")
    net = flat().eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert torch.allclose(torch.compile(net)(x4), net(x4), atol=1e-5)


@NETS
def test_export(make, x4):
    net = make().eval()
    program = torch.export.export(net, (x4,), strict=False)
    assert torch.equal(program.module()(x4), net(x4))


@NETS
def test_export_with_any_number_of_rows(make, x4):
    net = make().eval()
    program = torch.export.export(net, (x4,), strict=False, dynamic_shapes=({0: torch.export.Dim("rows")},))
    x = torch.randn(7, 4)
    assert torch.equal(program.module()(x), net(x))


@NETS
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_jit_trace(make, x4):
    net = make().eval()
    traced = torch.jit.trace(net, x4)
    x = torch.randn(7, 4)
    assert torch.allclose(traced(x), net(x), atol=1e-6)


@NETS
def test_symbolic_trace(make, x4):
    net = make()
    graph = torch.fx.symbolic_trace(net)
    assert torch.equal(graph(x4), net(x4))
    x = torch.randn(7, 4)
    assert torch.equal(graph(x), net(x))


# -- functions of parameters -------------------------------------------------------------------------------------------


@NETS
def test_functional_call(make, x4):
    net, other = make(), make()
    with torch.no_grad():
        for p in other.parameters():
            p.normal_()
    before = net(x4)
    assert torch.equal(functional_call(net, dict(other.named_parameters()), (x4,)), other(x4))
    assert torch.equal(net(x4), before)


@NETS
def test_vmap_over_samples(make, x4):
    net = make()
    assert torch.allclose(vmap(net)(x4), net(x4), atol=1e-6)
    assert torch.allclose(vmap(net)(x4[:, None])[:, 0], net(x4), atol=1e-6)


@NETS
def test_gradients_of_each_sample(make, x4):
    net = make()
    parameters = {name: p.detach() for name, p in net.named_parameters()}

    def loss(held, sample):
        return functional_call(net, held, (sample,)).square().sum()

    each = vmap(grad(loss), in_dims=(None, 0))(parameters, x4)
    net(x4).square().sum().backward()
    for name, p in net.named_parameters():
        assert torch.allclose(each[name].sum(0), p.grad, atol=1e-4)


def test_an_ensemble_of_chains_by_stacked_parameters(x4):
    nets = [flat() for _ in range(3)]
    parameters, buffers = torch.func.stack_module_state(nets)
    together = vmap(lambda p, b: functional_call(nets[0], (p, b), (x4,)))(parameters, buffers)
    assert torch.allclose(together, torch.stack([net(x4) for net in nets]), atol=1e-6)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, from within
def test_forward_mode_derivatives(x4):
    net = flat()
    _, tangent = torch.func.jvp(net, (x4,), (torch.ones_like(x4),))
    jacobian = torch.autograd.functional.jacobian(net, x4)
    assert torch.allclose(tangent, jacobian.sum((2, 3)), atol=1e-5)


# -- modules that change modules ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("parametrize", [parametrizations.spectral_norm, parametrizations.weight_norm])
@pytest.mark.parametrize("when", ["before", "after"])
def test_parametrizations(parametrize, when, x4):
    layer = Dense(4, 4, relu)
    if when == "before":
        parametrize(layer)
    net = Chain(layer, Dense(4, 4), wiring=every(1))
    if when == "after":
        parametrize(layer)
    net.eval()
    h = layer(x4) + x4
    assert torch.equal(net(x4), net[1](h) + h)
    net.train()(x4).sum().backward()
    assert all(p.grad is not None for p in net.parameters())
    str(net), repr(net)
    assert torch.equal(copy.deepcopy(net).eval()(x4), net.eval()(x4))


def test_pruning(x4):
    net = flat()
    prune.l1_unstructured(net["stem"], "weight", 0.5)
    net(x4).sum().backward()
    assert (net["stem"].weight == 0).sum() == 12
    assert net(torch.randn(2, 5, 4)).shape == (2, 5, 3)


def test_synchronised_batch_norm():
    net = Chain(Conv(3, 8, 3), BatchNorm(), input=(3, 8, 8), wiring=[Shortcut(1, 2)])
    assert isinstance(nn.SyncBatchNorm.convert_sync_batchnorm(net)[1], nn.SyncBatchNorm)


def test_apply_and_initialisation_reach_everything():
    net = nested()
    seen = []
    net.apply(lambda m: seen.append(type(m).__name__))
    assert seen.count("Dense") == 5
    assert seen.count("Linear") == 1  # the gate

    def nought(m):
        if isinstance(m, nn.Linear):
            nn.init.zeros_(m.weight)
            nn.init.zeros_(m.bias)

    net.apply(nought)
    assert not net(torch.ones(2, 4)).any()


def test_a_chain_is_a_layer_of_any_module(x4):
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = flat()
            self.head = nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.body(x))

    net = Net()
    assert torch.equal(copy.deepcopy(net)(x4), net(x4))
    assert torch.equal(nn.Sequential(flat(), nn.ReLU()).double()(x4.double()) >= 0, torch.ones(3, 3, dtype=torch.bool))
    net.body.requires_grad_(False)
    assert [n for n, p in net.named_parameters() if p.requires_grad] == ["head.weight", "head.bias"]


def test_saving_whole_and_as_a_state_dict(x4, tmp_path):
    net = flat()
    torch.save(net.state_dict(), tmp_path / "weights.pt")
    other = flat()
    other.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    assert torch.equal(other(x4), net(x4))
    torch.save(net, tmp_path / "net.pt")
    assert torch.equal(torch.load(tmp_path / "net.pt", weights_only=False)(x4), net(x4))


def test_loading_assigns_and_complains_as_modules_do(x4):
    net, other = flat(), flat()
    net.load_state_dict(other.state_dict(), assign=True)
    assert torch.equal(net(x4), other(x4))
    wrong = {k: v for k, v in other.state_dict().items() if k != "scale.by"}
    with pytest.raises(RuntimeError, match=r"Missing key.*scale\.by"):
        net.load_state_dict(wrong)
    assert net.load_state_dict(wrong, strict=False).missing_keys == ["scale.by"]


def test_threads_share_a_net():
    from concurrent.futures import ThreadPoolExecutor

    net = Chain(*[Dense(4, 4, torch.tanh) for _ in range(6)], wiring=dense()).eval()
    xs = [torch.randn(n + 1, 4) for n in range(16)]
    with torch.no_grad():
        expected = [net(x) for x in xs]
        with ThreadPoolExecutor(4) as pool:
            got = list(pool.map(lambda x: net(x), xs))
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
