"""Words of the vocabulary together, and the vocabulary in the hands of torch's own tools."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import skipway
from skipway import (
    Anneal,
    BatchNorm,
    Cat,
    Chain,
    Conv,
    Crop,
    Dense,
    Drop,
    DualPath,
    Gate,
    Householder,
    Join,
    LayerNorm,
    Learned,
    Lerp,
    LowRank,
    Orthogonal,
    Pad,
    Project,
    Ramp,
    Resize,
    Shake,
    ShakeDrop,
    Shortcut,
    Skip,
    Slice,
    SqueezeExcite,
    Swapout,
    Warmup,
    Weighted,
    dense,
    every,
    log2,
    relu,
    tanh,
)  # fmt: skip
from skipway.gains import Stepped, set_step

NAMES = {**vars(skipway), "nn": nn, "torch": torch}


def stack(wiring: Any, layers: int = 4, width: int = 5) -> Chain:
    return Chain(*[Dense(width, width, tanh) for _ in range(layers)], wiring=wiring)


def stirred(net: Chain) -> Chain:
    """The net with weights and gains of shortcuts that say something, in the middle of its schedules, at test."""
    for p in net.shortcuts.parameters():
        nn.init.normal_(p)
    set_step(net, 2)
    return net.eval()


# -- every word, in torch's hands --------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [False, True])
def test_one_sample_needs_no_batch_axis(case, net, x, training):
    # a draw "for every sample" must not take the features of one sample for samples
    net.build(x.shape[1:]).train(training)
    one = net(x[0])
    together = net(x)[0]
    assert one.shape == together.shape
    counts = any(isinstance(m, (nn.modules.batchnorm._BatchNorm, Stepped)) for m in net.modules())
    if not training or not (case.random or counts):
        assert torch.allclose(one, together, atol=1e-5)


def test_an_empty_batch(case, net, x):
    assert net.eval()(x[:0]).shape == (0, *net(x).shape[1:])


def test_no_tensor_stays_alive(case, net, x):
    seen = []
    for module in net.modules():
        if module is not net:
            module.register_forward_hook(lambda _module, _args, out: seen.append(weakref.ref(out)))
    x.requires_grad_()
    out = net(x)
    out.sum().backward()
    del out
    assert [r for r in seen if r() is not None and r() is not x] == []


def test_the_code_runs_by_itself(case, net, x):
    net = net.eval()
    scope = dict(net._run.__globals__)  # the functions it names
    exec(net.code, scope)
    assert torch.equal(scope["forward"](net, x), net(x))


def test_on_the_meta_device(case, net, x):
    net, out = copy.deepcopy(net), net(x)  # modules that a case was given are those of all its nets
    assert net.to("meta")(x.to("meta")).shape == out.shape
    assert {t.device.type for t in net.state_dict().values()} <= {"meta"}


def test_in_half_precision(case, net, x):
    net = copy.deepcopy(net).bfloat16()
    assert net(x.bfloat16()).dtype == torch.bfloat16
    assert net.eval()(x.bfloat16()).dtype == torch.bfloat16
    assert all(m.step.dtype == torch.long for m in net.modules() if isinstance(m, Stepped))


@pytest.mark.which("random")
def test_seeded_draws_come_again(case, net, x):
    twin = copy.deepcopy(net)
    torch.manual_seed(3)
    out = net(x)
    torch.manual_seed(3)
    assert torch.equal(twin(x), out)


@pytest.mark.which("random")
def test_recomputed_in_the_backward_it_draws_the_same(case, net, x):
    twin = copy.deepcopy(net)
    x.requires_grad_()
    torch.manual_seed(1)
    (grad,) = torch.autograd.grad(net(x).square().sum(), x)
    torch.manual_seed(1)
    out: Any = checkpoint(twin, x, use_reentrant=False)
    (again,) = torch.autograd.grad(out.square().sum(), x)
    assert torch.allclose(again, grad)


@pytest.mark.which("random")
def test_random_words_draw_anew(case, net, x):
    set_step(net, 3)
    out = net(x)
    assert any(not torch.equal(net(x), out) for _ in range(20))
    state = torch.get_rng_state()
    net.eval()(x)
    assert torch.equal(torch.get_rng_state(), state), "at test nothing is drawn"


def test_the_same_shortcut_again_keeps_what_it_owns(case, net, x):
    net = stirred(net)
    again = net.rewire(net.wiring)
    assert all(a is b for a, b in zip(net.parameters(), again.parameters(), strict=True))
    assert torch.equal(again(x), net(x))


# -- joint merges with everything else ---------------------------------------------------------------------------------


def into_three(merge: Any = "weighted", **options: Any) -> Chain:
    """Four layers, and a meeting of three shortcuts into the value after three of them."""
    return stack([Shortcut(k, 3, merge=merge, **options) for k in range(3)])


JOINT = {
    # a module is of one shortcut only, a recipe makes one for each
    "paths of their own": lambda: stack(
        [Shortcut(k, 3, merge="weighted", path=[nn.Tanh(), Dense(..., 5)]) for k in range(3)]
    ),
    "low rank": lambda: into_three(path=LowRank(2)),
    "gains of their own": lambda: into_three(Weighted("softmax"), path_scale=Warmup(3)),
    "of channels": lambda: into_three(path_scale=Learned(0.5, per="channel")),
    "dropped": lambda: into_three(drop=Drop(0.5, law="test-scale")),
    "branch and state": lambda: stack(
        [Shortcut(0, 1), Shortcut(1, 3, merge="weighted", tap="branch"), Shortcut(1, 3, merge="weighted", name="state")]
    ),
    "another merge between": lambda: stack(
        [Shortcut(0, 3, merge="weighted"), Shortcut(1, 3), Shortcut(2, 3, merge="weighted")]
    ),
    "dense over depth": lambda: stack(
        dense(merge="weighted", scale=Ramp(0.5, 1.0), path_scale=Learned(Ramp(0.0, 1.0)))
    ),
    "dense of states": lambda: stack(dense(merge="weighted", tap="state")),
    "powers of two": lambda: stack(log2(merge=Weighted("softmax")), 6),
    "joins": lambda: stack(dense(merge=Join(0.3))),
    "shakes": lambda: stack(dense(merge=Shake())),
    "out of a nested chain": lambda: Chain(
        stem=Dense(5, 5),
        enc=Chain(a=Dense(5, 5), b=Dense(5, 5), wiring=[Shortcut(0, 2)]),
        dec=Dense(5, 5),
        wiring=[Shortcut(k, "dec", merge=Weighted("softmax"), path="project") for k in ("enc.a", "stem", "enc")],
    ),
    "into a nested chain": lambda: Chain(
        stem=Dense(5, 5),
        enc=Chain(a=Dense(5, 5), b=Dense(5, 5)),
        wiring=[Shortcut(k, "enc.b", merge=Weighted("softmax")) for k in ("input", "stem")],
    ),
}


@pytest.mark.parametrize("make", JOINT.values(), ids=JOINT)
class TestJoint:
    def test_copies_and_code(self, make: Callable[[], Chain]):
        net, x = stirred(make()), torch.randn(3, 5)
        out = net(x)
        again = eval(repr(net), NAMES)
        again.load_state_dict(net.state_dict())
        assert repr(again) == repr(net)
        assert torch.equal(again.eval()(x), out)
        assert torch.equal(copy.deepcopy(net)(x), out)
        assert torch.equal(net.features(x, at=["output"])["output"], out)
        assert all(len(line) <= 100 for line in str(net).splitlines())

    def test_edited(self, make: Callable[[], Chain]):
        net, x = stirred(make()), torch.randn(3, 5)
        out = net(x)
        for other in (
            net.plain(),
            net.insert(1, Dense(5, 5)),
            net.replace(0, Dense(5, 5)),
            net.without(net.wiring[-1]),
        ):
            assert other(x).shape == out.shape
            built = eval(repr(other), NAMES)
            assert built.load_state_dict(other.state_dict()) == nn.modules.module._IncompatibleKeys([], [])
            assert torch.equal(built.eval()(x), other.eval()(x))
        assert torch.equal(net(x), out), "the net itself is as it was"

    def test_gradients_reach_everything(self, make: Callable[[], Chain]):
        net = make()
        set_step(net, 2)
        net(torch.randn(3, 5)).square().sum().backward()
        assert [name for name, p in net.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("name", ["out of a nested chain", "into a nested chain"])
def test_joint_merges_compile(name):
    net, x = stirred(JOINT[name]()), torch.randn(3, 5)
    with torch.no_grad():
        assert torch.equal(torch.compile(net, backend="eager", fullgraph=True)(x), net(x))


def test_an_inserted_layer_keeps_the_weights_of_a_meeting():
    net = stirred(stack([Shortcut(k, 3, merge=Weighted("softmax")) for k in (0, 1, 2)]))
    longer = net.insert(1, nn.Identity())
    assert longer.shortcuts["0->4"].merge is net.shortcuts["0->3"].merge
    x = torch.randn(2, 5)
    assert torch.equal(longer(x), net(x))


def test_a_slice_takes_a_whole_meeting_or_none():
    net = stack([Shortcut(k, 3, merge="weighted") for k in (0, 1, 2)])
    x = torch.randn(2, 5)
    assert torch.equal(net[3:](net[:3](x)), net(x))
    with pytest.raises(skipway.ChainError, match="would cut the shortcut '0->3'"):
        net[1:3]


# -- patterns ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "every(2, scale=Ramp(start=0, end=1))",
        "every(2, drop=Drop(p=Ramp(start=0.0, end=0.5), mode='batch', law='test-scale'))",
        "every(1, merge=Lerp(weight=0.5), scale=Anneal(start=0, end=1, steps=5))",
        "sliding(3, drop=ShakeDrop(p=Ramp(start=0, end=0.5)))",
        "log2(tap='branch', merge=Cat(first='shortcut'))",
        "cross(scale=Learned(0.1))",
        "from_input(output=False, merge='cat')",
        "unet(path=['detach'])",
        "every(1) + every(3, path='detach') + [Shortcut(0, 6, name='around')]",
    ],
)
def test_a_pattern_prints_as_it_is_written(text):
    net = Chain(*[Dense(..., 6) for _ in range(6)], wiring=eval(text, NAMES), input=6)
    assert text in repr(net)
    again = eval(repr(net), NAMES)
    assert again.wiring == net.wiring
    assert again(torch.zeros(1, 6)).shape == net(torch.zeros(1, 6)).shape


def test_every_place_of_a_pattern_gets_a_gain_of_its_own():
    net = stack(every(1, scale=lambda depth, of: SqueezeExcite(depth)), 3)
    inner = [net.shortcuts[name].scale.squeeze.out_features for name in net.shortcuts]
    assert inner == [5, 2, 1]
    made = stack(every(1, scale=lambda depth, of: Warmup(10 * depth)), 3)
    assert [made.shortcuts[name].scale.steps for name in made.shortcuts] == [10, 20, 30]
    net = stack(every(1, drop=lambda depth, of: Drop(0.1 * depth, mode="batch")), 3)
    assert [round(net.shortcuts[name].drop.p, 6) for name in net.shortcuts] == [0.1, 0.2, 0.3]


# -- sizes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize(
    "path", [Project(), Project(down="mean"), Project(down="blur"), Pad("mean"), Pad("blur"), "pad"]
)
def test_a_strided_path_fits_at_every_size(dims, path):
    conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
    net = Skip(conv(2, 4, 3, stride=2, padding=1), path=path)
    for size in ((9, 7, 8), (10, 9, 6), (5, 12, 3)):
        assert net(torch.randn(1, 2, *size[:dims])).shape[2:] == tuple(-(-s // 2) for s in size[:dims])


@pytest.mark.parametrize(
    "options",
    [
        {"scale": Learned(0.5, per="channel")},
        {"scale": SqueezeExcite(2), "path": LowRank(2)},
        {"merge": "gate", "path": Householder()},
        {"merge": Lerp(Learned(0.1, per="channel"), norm=True)},
        {"merge": Orthogonal(), "drop": 0.5},
        {"merge": DualPath(3)},
        {"path": [Slice(0, 3), "pad"]},
        {"merge": Cat(axis=-1), "act": LayerNorm(12)},
    ],
)
def test_what_is_made_for_vectors_takes_tokens(options):
    net = Skip(Dense(6, 6), **options).eval()
    tokens = torch.randn(2, 3, 5, 6)
    assert torch.allclose(net(tokens), net(tokens.reshape(-1, 6)).reshape(2, 3, 5, -1), atol=1e-6)


def test_a_crop_takes_away_as_much_at_every_size():
    net = Skip(Conv(2, 2, 3), Conv(2, 2, 3), path=Crop(), merge="cat")
    assert [tuple(net(torch.randn(1, 2, s, s)).shape[1:]) for s in (7, 8, 20)] == [(4, 3, 3), (4, 4, 4), (4, 16, 16)]


def test_a_resize_before_and_after_a_projection():
    up = Skip(Conv(3, 5, 1), nn.Upsample(scale_factor=2), path=[Resize("linear"), Project(norm=BatchNorm)])
    assert [up(torch.randn(2, 3, s, s)).shape for s in (4, 7)] == [(2, 5, 8, 8), (2, 5, 14, 14)]
    with pytest.raises(skipway.ShapeError, match=r'or resize first with path=\["resize", \.\.\.\]'):
        Skip(nn.Upsample(scale_factor=2), Conv(3, 5, 1), path=["project", "resize"], input=(3, 8, 8))


# -- gains that are modules, and data ----------------------------------------------------------------------------------


def test_an_open_gain_takes_the_width_of_what_it_multiplies():
    for options in ({"scale": Dense(..., 6)}, {"path_scale": Chain(Dense(..., 6), nn.Sigmoid())}):
        net = Chain(Dense(4, 3), Dense(3, 6), wiring=[Shortcut(0, 2, path="project", **options)])
        net(torch.randn(2, 4)).sum().backward()
        assert all(p.grad is not None for p in net.parameters())


@pytest.mark.parametrize("part", ["scale", "path_scale", "path"])
def test_what_works_in_place_is_refused(part):
    with pytest.raises(skipway.ShapeError, match="in place"):
        Skip(Dense(4, 4), **{part: nn.ReLU(inplace=True)})
    with pytest.raises(skipway.ShapeError, match="in place"):
        Skip(Dense(4, 4), **{part: nn.Dropout(0.5, inplace=True)})


def test_in_place_later_in_a_row_of_paths_harms_nothing():
    net = Skip(Dense(4, 4), path=[nn.Tanh(), nn.ReLU(inplace=True)])
    x = torch.randn(3, 4)
    kept = x.clone()
    assert torch.equal(net(x), net[0](x) + torch.tanh(x).relu())
    assert torch.equal(x, kept)


@pytest.mark.parametrize(
    "options",
    [
        {"merge": Weighted("softmax"), "scale": Anneal(0, 1, 3)},
        {"merge": Cat(axis=1), "path": ["crop", Slice(0, 2)]},
        {"merge": Swapout(0.1, 0.2, "row"), "drop": ShakeDrop(0.5, (-2.0, 2.0))},
        {"merge": Gate(-1.0, free=True), "scale": SqueezeExcite(2), "act": relu},
        {"merge": Join(columns=(0, 1)), "path": Project(norm=nn.BatchNorm2d)},
    ],
)
def test_shortcuts_are_data_whatever_they_hold(options):
    made = Shortcut(0, 2, **options)
    assert made == Shortcut(0, 2, **options) == eval(repr(made), NAMES) != Shortcut(0, 2)
    assert hash(made) == hash(Shortcut(0, 2, **options))


def test_hooks_of_an_opened_chain_see_a_joint_merge():
    enc = Chain(a=Dense(5, 5), b=Dense(5, 5), wiring=[Shortcut(0, 2, merge=Weighted(init="sum"))])
    net = Chain(
        enc=enc, dec=Dense(5, 5), wiring=[Shortcut(k, "dec", merge=Weighted("softmax")) for k in ("enc.a", "enc")]
    )
    seen: list[Tensor] = []
    enc.register_forward_hook(lambda _module, _args, out: seen.append(out))
    x = torch.randn(2, 5)
    net(x)
    assert torch.allclose(seen[0], x + enc["b"](enc["a"](x)), atol=1e-6)
    assert len(net.shortcuts["enc.a->dec"].merge.weights) == 3
