"""Faults that were found in the vocabulary: each must stay away."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from skipway import (
    Anneal,
    BatchNorm,
    Cat,
    Chain,
    ChainError,
    Conv,
    Dense,
    Drop,
    DualPath,
    Gate,
    Householder,
    Join,
    Learned,
    Lerp,
    LowRank,
    Orthogonal,
    Parallel,
    Project,
    Ramp,
    Shake,
    ShakeDrop,
    ShapeError,
    Shortcut,
    Skip,
    Slice,
    SqueezeExcite,
    Swapout,
    Warmup,
    Weighted,
    every,
    relu,
    set_step,
)
from skipway.gains import Gain
from skipway.merges import Add


@pytest.mark.parametrize("part", ["path", "scale", "path_scale", "act"])
def test_a_module_of_torch_is_not_shared_by_two_shortcuts(part):
    module = nn.PReLU(4)
    with pytest.raises(ChainError, match="same PReLU object"):
        Chain(Dense(4, 4), Dense(4, 4), wiring=[Shortcut(k, k + 1, **{part: module}) for k in (0, 1)])
    with pytest.raises(ChainError, match="share the weights of one"):
        every(1, **{part: module})
    with pytest.raises(ChainError, match="share the weights of one BatchNorm"):
        every(1, **{part: BatchNorm()})
    free = nn.ReLU()
    assert Chain(Dense(4, 4), Dense(4, 4), wiring=every(1, **{part: free}))(torch.zeros(1, 4)).shape == (1, 4)


def test_constants_survive_the_meta_device():
    def make() -> Skip:
        return Skip(Conv(4, 8, 3, stride=2, padding=1), path=Project(down="blur"))

    held = make().eval()
    with torch.device("meta"):
        net = make().eval()
    net.to_empty(device="cpu")
    net.load_state_dict(held.state_dict())
    x = torch.randn(1, 4, 8, 8)
    assert torch.equal(net(x), held(x))


@pytest.mark.parametrize("gain", [{"scale": Warmup(4)}, {"drop": Drop(0.4, mode="batch", warmup=9)}])
def test_checkpointing_counts_a_step_once(gain):
    torch.manual_seed(0)
    net = Skip(Dense(6, 6), **gain).train()
    x = torch.randn(2, 6, requires_grad=True)
    found = []
    for run in (net, lambda x: checkpoint(net, x, use_reentrant=False)):
        set_step(net, 0)
        torch.manual_seed(1)
        found.append(torch.autograd.grad(run(x).square().sum(), x)[0])
        assert [int(m.step) for m in net.modules() if hasattr(m, "step")] == [1]
    assert torch.equal(*found)


@pytest.mark.parametrize(
    "make", [lambda: Skip(Dense(3, 3), drop=0.5), lambda: Skip(Dense(3, 3), drop=ShakeDrop(0.5)),
             lambda: Skip(Dense(3, 3), merge=Swapout())],
)  # fmt: skip
def test_vmap_draws_for_each(make):
    net = make().train()
    out = torch.func.vmap(net, randomness="different")(torch.ones(200, 1, 3))
    assert len(out.reshape(200, -1).unique(dim=0)) > 1


def test_half_precision_drops_as_often():
    torch.manual_seed(0)
    drop = Drop(0.001, mode="element").make()
    x = torch.ones(2000, 1000, dtype=torch.bfloat16)
    assert abs(float((drop(x) == 0).float().mean()) - 0.001) < 2e-4


@pytest.mark.parametrize(
    "make",
    [
        lambda: Skip(Dense(4, 4), merge="weighted"),
        lambda: Skip(Dense(4, 4), path=Householder(Learned(0.5))),
        lambda: Skip(Dense(4, 4), path="detach"),
        lambda: Skip(Conv(4, 4, 3, stride=2, padding=1), path="resize", input=(4, 8, 8)),
    ],
)
def test_fx_follows(make):
    net = make().eval()
    x = torch.randn(2, *net.plan.input.shape)
    assert torch.equal(torch.fx.symbolic_trace(net)(x), net(x))


def test_resize_rounds_up_as_strides_do():
    net = Skip(Conv(4, 8, 3, stride=2, padding=1), path=["resize", "project"], input=(4, 9, 9))
    for side in (9, 18, 7, 8):
        assert net(torch.zeros(1, 4, side, side)).shape == (1, 8, -(-side // 2), -(-side // 2))


def test_words_are_their_recipes():
    assert Shortcut(0, 1, path=Project()) == Shortcut(0, 1, path="project")
    assert Shortcut(0, 1, merge=Weighted) == Shortcut(0, 1, merge="weighted")
    assert Shortcut(0, 1, drop=Drop(0.1)) == Shortcut(0, 1, drop=0.1)
    assert Shortcut(0, 1, scale=Learned) == Shortcut(0, 1, scale=Learned())
    assert len({Shortcut(0, 1, path=Project()), Shortcut(0, 1, path="project")}) == 1
    net = Chain(Dense(4, 5), wiring=[Shortcut(0, 1, path=Project())])
    again = net.rewire(eval(repr(net.wiring)))
    assert again.shortcuts["0->1"].path is net.shortcuts["0->1"].path


def test_what_works_in_place_only_in_training_is_caught():
    class Halved(nn.Module):
        def forward(self, x):
            return x.mul_(0.5) if self.training else x * 0.5

    for part in ("path", "path_scale"):
        with pytest.raises(ChainError, match="changes one of the values it merges in place"):
            Chain(Dense(4, 4), Dense(4, 4), wiring=[Shortcut(1, 2, **{part: Halved()})])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"scale": Anneal}, r"Anneal is a class that has something to be said: write Anneal\(...\)"),
        ({"path": LowRank}, r"write LowRank\(...\)"),
        ({"merge": DualPath}, r"write DualPath\(...\)"),
        ({"scale": torch.sigmoid}, r"such as nn.Sigmoid\(\)"),
        ({"scale": Warmup}, "one that makes a gain has to be called"),
        ({"scale": nn.Linear(5, 6)}, r"its scale nn.Linear\(5, 6\) takes 5 features, and the value has 6"),
        ({"act": nn.Linear(5, 6)}, r"its act nn.Linear\(5, 6\) takes 5 features, and the value has 6"),
        ({"scale": nn.LSTM(6, 6)}, "fails in its scale"),
        ({"drop": Drop}, r"Drop\(...\) or ShakeDrop\(...\)"),
        ({"path": Slice(0, 3)}, r'write path=\[Slice\(stop=3\), "project"\]'),
        ({"drop": nn.Dropout(0.5)}, "must be a probability"),
    ],
)
def test_errors_name_the_part_and_the_fix(options, said):
    with pytest.raises(ChainError, match=said) as told:
        Skip(Dense(6, 6), **options)
    assert "test_faults.py:" in str(told.value)


@pytest.mark.parametrize(
    "make",
    [
        lambda: ShakeDrop(0.5, alpha=5),
        lambda: Join(columns=5),
        lambda: Join(columns=(-1, 0)),
        lambda: Gate("x"),
        lambda: Lerp(float("nan")),
        lambda: Orthogonal(-1.0),
        lambda: Cat(axis=1.5),
        lambda: Project(norm="bn"),
        lambda: Project(norm=nn.BatchNorm1d(5)),
        lambda: Skip(Dense(6, 5), path=Project(norm=relu)),
        lambda: Householder(Learned(Ramp(0, 1))),
        lambda: Ramp(0, 1).over(2.5),
        lambda: every(1, scale=Ramp),
        lambda: every(1, drop=Drop(Ramp(0, 1)))(3),
    ],
)
def test_bad_recipes_are_refused_in_words(make):
    with pytest.raises(ChainError):
        make()


def test_lists_in_recipes_hash():
    assert hash(Shortcut(0, 1, drop=ShakeDrop(0.5, alpha=[-1, 1]))) == hash(Shortcut(0, 1, drop=ShakeDrop(0.5)))
    assert Join(columns=[0, 1]) == Join(columns=(0, 1))


def test_a_replaced_layer_leaves_no_projection_behind():
    net = Chain(a=Dense(5, 4), wiring=[Shortcut(0, 1, path="project")])
    same = net.replace("a", Dense(5, 5))
    assert [n for n, _ in same.named_parameters()] == ["a.weight", "a.bias"]
    with pytest.raises(ShapeError):
        net.rewire([Shortcut(0, 1)])


def test_an_activation_with_a_width_of_its_own():
    x = torch.randn(2, 4, 6, 6)
    assert Skip(Conv(4, 4, 1), act=BatchNorm())(x).shape == x.shape
    assert Skip(Conv(4, 4, 1), merge="cat", act=BatchNorm())(x).shape == (2, 8, 6, 6)
    assert Skip(Conv(4, 4, 1), act=Chain(BatchNorm(), relu))(x).shape == x.shape
    with pytest.raises(ChainError, match=r"holds BatchNorm\(\), which cannot see there what arrives"):
        Skip(Conv(4, 4, 1), act=nn.Sequential(BatchNorm(), nn.ReLU()))
    with pytest.raises(ChainError, match="cannot see there what arrives"):
        Skip(Conv(4, 8, 1), path=Project(norm=lambda width: BatchNorm()))


@pytest.mark.parametrize(
    "options",
    [
        {"act": nn.BatchNorm2d(8)},
        {"scale": nn.BatchNorm2d(8)},
        {"act": nn.Sequential(nn.BatchNorm2d(8), nn.ReLU())},
        {"path": nn.Sequential(nn.Tanh(), nn.BatchNorm2d(8))},
        {"path": Project(always=True, norm=lambda width: nn.BatchNorm2d(width // 2))},
    ],
)
def test_a_norm_of_the_wrong_width_is_found_at_build(options):
    with pytest.raises(ShapeError, match=r"takes \d features, and the value has 4"):
        Skip(Conv(4, 4, 1), **options)


@pytest.mark.parametrize(
    "options",
    [
        {"merge": "gate"},
        {"merge": Lerp(norm=True)},
        {"merge": Orthogonal()},
        {"scale": Learned(per="channel")},
        {"scale": SqueezeExcite(2)},
    ],
)
def test_an_axis_that_cannot_be_told_is_said(options):
    with pytest.raises(ShapeError, match=r"cannot tell the feature axis of \(N, 4, 9, 9\)"):
        Skip(lambda x: x.sigmoid(), input=(4, 9, 9), **options)


def test_orthogonal_in_half_precision():
    x = (torch.randn(4, 512) * 20).half()
    net = Skip(Dense(512, 512), merge=Orthogonal()).half()
    wide = x.float()
    update = net(x).float() - wide
    assert ((update * wide).sum(1).abs() / (update.norm(dim=1) * wide.norm(dim=1)) < 2e-2).all()


def test_a_mean_of_branches_keeps_channels_last():
    x = torch.randn(2, 4, 6, 6).to(memory_format=torch.channels_last)
    for merge in ("mean", Shake(), Join()):
        net = Parallel(nn.Identity(), nn.ReLU(), merge=merge).eval()
        assert net(x).is_contiguous(memory_format=torch.channels_last)


def test_new_parts_follow_the_chain():
    net = Skip(Dense(6, 6)).double()
    gains = {"scale": Learned(1.0, per="channel"), "path": LowRank(2), "merge": "gate"}
    more = net.rewire([Shortcut("input", "output", **gains)])
    assert {p.dtype for p in more.parameters()} == {torch.float64}
    assert more(torch.zeros(1, 6, dtype=torch.float64)).dtype == torch.float64
    with torch.device("meta"):
        far = Chain(Dense(6, 6))
    assert far.rewire([Shortcut(0, 1, scale=Warmup(3))]).shortcuts["0->1"].scale.step.is_meta


def test_an_activation_after_a_joint_merge_stays_once():
    def stack():
        torch.manual_seed(0)
        wiring = [Shortcut(k, 3, merge="weighted", act=torch.tanh) for k in range(3)]
        return Chain(*[Dense(5, 5) for _ in range(3)], wiring=wiring)

    x = torch.randn(2, 5)
    net = stack()
    assert len(net.plain()) == 4
    assert torch.equal(net.plain()(x), torch.tanh(net[2](net[1](net[0](x)))))
    rest = net.without("1->3")
    assert len(rest) == 3
    assert [(s.start, s.end) for s in rest.wiring] == [(0, 3), (2, 3)]
    assert torch.allclose(rest(x), net(x)), "the weights of shortcuts begin at 0"


def test_branches_of_other_shapes_do_not_broadcast():
    for merge in (Weighted(), Shake(), Join()):
        with pytest.raises(ShapeError, match="needs equal shapes"):
            Parallel(nn.AdaptiveAvgPool2d(1), nn.Identity(), merge=merge)(torch.randn(2, 4, 8, 8))


def test_a_part_is_replaced_by_one_of_its_shape():
    net = Skip(Dense(4, 4), scale=Learned(1.0))
    with pytest.raises(ChainError, match="a connection keeps the scale"):
        net.shortcuts["input->output"].scale = nn.Parameter(torch.ones(3, 1))


def test_one_sample_with_a_hook_on_an_opened_chain():
    net = Chain(
        enc=Chain(a=Dense(6, 6), b=Dense(6, 6)), flat=nn.Flatten(), dec=Dense(6, 6), wiring=[Shortcut("enc.a", "dec")]
    )
    seen = []
    net["enc"].register_forward_hook(lambda module, args, out: seen.append(out.shape))
    x = torch.randn(3, 6)
    assert torch.allclose(net(x[0]), net(x)[0], atol=1e-6)


def test_a_recipe_of_ones_own_is_told_what_it_lacks():
    class Nothing(Gain):
        pass

    class Wrong(Gain):
        def make(self, value):
            return torch.ones(3)

    class Wide(Gain):
        def make(self, value):
            return nn.Parameter(torch.ones(6, 6))

    for gain, said in ((Nothing(), "has to define make"), (Wrong(), "make gave a Tensor"), (Wide(), "would broadcast")):
        with pytest.raises(ChainError, match=said):
            Skip(Dense(6, 6), scale=gain)


def test_weights_that_could_never_learn_are_refused():
    with pytest.raises(ChainError, match="have no gradient and stay there"):
        Weighted("positive", init="branch")


def test_classes_print_as_words():
    assert repr(Shortcut(0, 1, merge=Weighted)) == "Shortcut(0, 1, merge='weighted')"
    assert repr(Shortcut(0, 1, merge=Add())) == "Shortcut(0, 1)"


@pytest.mark.parametrize("gain", [{"scale": Warmup(4)}, {"drop": Drop(0.4, "batch", warmup=3)}])
def test_compiled_gradients_are_of_the_step_of_their_forward(gain):
    torch._dynamo.reset()
    torch.manual_seed(0)
    net = Skip(Dense(6, 6), **gain).train()
    compiled = torch.compile(net, backend="aot_eager", fullgraph=True)
    found = []
    for run in (net, compiled):
        set_step(net, 0)
        held = []
        for _ in range(3):
            torch.manual_seed(3)
            x = torch.ones(3, 6, requires_grad=True)
            run(x).square().sum().backward()
            held.append(x.grad)
        found.append(torch.stack(held))
        assert [int(m.step) for m in net.modules() if hasattr(m, "step")] == [3]
    assert torch.allclose(*found, atol=1e-6)


def test_only_what_no_longer_fits_is_made_anew():
    gains = {"scale": Warmup(5), "path_scale": Learned(1.0), "merge": "gate"}
    net = Chain(a=Dense(6, 5), b=Dense(..., 3), wiring=[Shortcut(0, 1, path="project", **gains)])
    set_step(net, 3)
    held = net.shortcuts["0->1"]
    nn.init.constant_(held.path_scale, 9.0)
    more = net.replace("a", Dense(6, 7)).shortcuts["0->1"]
    assert int(more.scale.step) == 3
    assert more.path_scale is held.path_scale
    assert more.path.weight.shape == (7, 6)
    assert more.merge.transform.weight.shape == (7, 7)
    assert held.path.weight.shape == (5, 6), "the net itself is as it was"


def test_a_frozen_net_stays_frozen():
    wiring = [Shortcut(k, 3, merge="weighted") for k in range(3)]
    net = Chain(*[Dense(5, 5) for _ in range(3)], wiring=wiring).requires_grad_(False)
    assert not any(p.requires_grad for p in net.without("1->3").parameters())


def test_numbers_of_numpy():
    shortcut = Shortcut(0, 1, scale=np.float32(0.5), path_scale=np.float64(0.25), drop=np.float32(0.5))
    assert repr(shortcut) == "Shortcut(0, 1, scale=0.5, path_scale=0.25, drop=0.5)"


def test_a_path_is_replaced_by_one_of_its_shape():
    net = Skip(Dense(5, 4), path="project")
    with pytest.raises(ChainError, match="a connection keeps the path"):
        net.shortcuts["input->output"].path = nn.Linear(5, 1, bias=False)
    net.shortcuts["input->output"].path = nn.Linear(5, 4, bias=False)
    assert net(torch.zeros(1, 5)).shape == (1, 4)
