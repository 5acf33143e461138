"""What holds for every merge, path, gain, tap and order."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from torch import nn
from torch.autograd import gradcheck

import skipway
from skipway import Chain
from skipway.gains import set_step


def settled(net: Chain) -> Chain:
    """The net in the middle of its schedules, where a gain that changes is not zero."""
    set_step(net, 2)
    return net


def started(net: Chain) -> Chain:
    """The net with gains that begin at zero let in."""
    for p in net.parameters():
        if not p.any():
            nn.init.normal_(p, std=0.5)
    return settled(net)


def test_every_parameter_gets_a_gradient(case, net, x):
    out = settled(net)(x)
    (out * torch.linspace(0.5, 1.5, out.numel()).view_as(out)).sum().backward()
    missing = [name for name, p in net.named_parameters() if p.grad is None]
    assert not missing
    if not case.random:
        still = [name for name, p in net.named_parameters() if not p.grad.any()]
        assert not [name for name in still if not any(part in name for part in case.quiet)]


@pytest.mark.which("differentiable")
def test_gradients_are_those_of_finite_differences(case, net, x):
    net = started(net).double().eval()
    x = x[:2].double().requires_grad_()
    parameters = list(net.parameters())

    def run(x, *values):
        held = dict(zip((name for name, _ in net.named_parameters()), values, strict=True))
        return torch.func.functional_call(net, held, (x,))

    assert gradcheck(run, (x, *parameters), fast_mode=True, atol=1e-6)


def test_the_plan_knows_the_shape(case, net, x):
    net.build(x.shape[1:])
    assert net(x).shape[1:] == net.plan.output.shape


@pytest.mark.which("identity")
def test_a_branch_of_zeros_leaves_the_value(case, net, x):
    last = net[-1]
    for p in (last.weight, last.bias):
        nn.init.zeros_(p)
    expected = x[..., 1:5, 1:5] if case.shape == (4, 6, 6) and last.padding == (0, 0) else x
    assert torch.allclose(settled(net).eval()(x), expected)


def test_copies_compute_the_same(case, net, x):
    net = started(net).eval()
    out = net(x)
    assert torch.equal(copy.deepcopy(net)(x), out)
    fresh = case.make().eval()
    assert fresh.load_state_dict(net.state_dict()) == nn.modules.module._IncompatibleKeys([], [])
    assert torch.equal(fresh(x), out)
    try:
        held = pickle.dumps(net)
    except (AttributeError, pickle.PicklingError) as error:
        assert "lambda" in str(error)  # noqa: PT017 (a function without a name cannot be pickled, by anybody)
    else:
        assert torch.equal(pickle.loads(held)(x), out)
    file = io.BytesIO()
    torch.save(net.state_dict(), file)
    file.seek(0)
    assert torch.load(file, weights_only=True).keys() == net.state_dict().keys()


def test_it_trains_after_a_copy(case, net, x):
    twin = copy.deepcopy(net)
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.1)
    before = [p.detach().clone() for p in twin.parameters()]
    for _ in range(2):
        optimizer.zero_grad()
        twin(x).square().sum().backward()
        optimizer.step()
    assert any(not torch.equal(a, b) for a, b in zip(before, twin.parameters(), strict=True))


def test_compiled_and_exported_it_is_the_same(case, net, x):
    net = started(net).eval()
    out = net(x)
    with torch.no_grad():
        assert torch.equal(torch.compile(net, backend="eager", fullgraph=True)(x), out)
        exported = torch.export.export(net, (x,)).module()
        assert torch.allclose(exported(x), out, atol=1e-6)


@pytest.mark.which("random")
def test_it_compiles_in_training(case, net, x):
    compiled = torch.compile(settled(net), backend="aot_eager", fullgraph=True)
    compiled(x).square().sum().backward()
    assert all(p.grad is not None for p in net.parameters())


def test_batch_of_one(case, net, x):
    net = started(net).eval()
    assert torch.allclose(net(x[:1]), net(x)[:1], atol=1e-5)


@pytest.mark.which("image")
def test_channels_last(case, net, x):
    net = started(net).eval()
    last = x.to(memory_format=torch.channels_last)
    assert torch.allclose(net.to(memory_format=torch.channels_last)(last), net(x), atol=1e-5)


def test_bf16_autocast_is_finite(case, net, x):
    with torch.autocast("cpu", torch.bfloat16):
        out = started(net)(x)
    assert out.isfinite().all()
    out.float().square().mean().backward()
    assert all(p.grad.isfinite().all() for p in net.parameters())


def test_in_double_precision(case, net, x):
    assert started(net).double()(x.double()).dtype == torch.float64


@pytest.mark.which("printable")
def test_repr_builds_it_again(case, net):
    again = eval(repr(net), {**vars(skipway), "nn": nn, **case.names})
    assert repr(again) == repr(net)
    assert [(k, v.shape) for k, v in again.state_dict().items()] == [(k, v.shape) for k, v in net.state_dict().items()]


def test_it_prints_and_draws_every_shortcut(case, net):
    text = str(net)
    assert f"{sum(p.numel() for p in net.parameters()):,} parameter" in text
    assert all(len(line) <= 100 for line in text.splitlines())


def test_the_code_is_what_runs(case, net, x):
    net = settled(net).eval()
    compile(net.code, "<code>", "exec")
    names = {"features": net.features(x, at=["output"])["output"], "forward": net(x)}
    assert torch.equal(names["features"], names["forward"])


def test_the_plain_twin_runs(case, net, x):
    plain = copy.deepcopy(net).plain().eval()
    assert not [m for m in plain.modules() if isinstance(m, Chain) and m.wiring]
    assert plain(x).isfinite().all()
