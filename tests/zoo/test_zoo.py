"""What holds for every net of the zoo, on small ones of every family."""

from __future__ import annotations

import copy
import pickle
import re
import warnings

import pytest
import torch
from torch import nn

import skipway
from skipway import Chain, zoo
from skipway.zoo import make

VIT = {"image": 32, "patch": 8, "depth": 2, "width": 12, "heads": 3}

#: name, options, and the shape of an input for which every value still has some pixels
SMALL = {
    "resnet A": ("resnet18", {"num_classes": 5, "shortcut": "A"}, (3, 40, 40)),
    "resnet B": ("resnet18", {"num_classes": 5, "zero_init": False}, (3, 40, 40)),
    "resnet C": ("resnet18", {"num_classes": 5, "shortcut": "C"}, (3, 40, 40)),
    "resnet D": ("resnet18", {"num_classes": 5, "shortcut": "D"}, (3, 40, 40)),
    "deep stem": ("resnet50_d", {"num_classes": 5}, (3, 33, 33)),
    "squeeze and excitation": ("resnet18", {"num_classes": 5, "squeeze": 16}, (3, 40, 40)),
    "norm-free": ("nf_resnet50", {"num_classes": 5}, (3, 33, 33)),
    "bottlenecks": ("resnet50", {"num_classes": 5, "stride_on": "1x1"}, (3, 33, 33)),
    "groups": ("resnext50_32x4d", {"num_classes": 5}, (3, 33, 33)),
    "cifar A": ("cifar_resnet", {"depth": 8}, (3, 16, 16)),
    "cifar C": ("cifar_resnet", {"depth": 8, "shortcut": "C"}, (3, 16, 16)),
    "cifar D": ("cifar_resnet", {"depth": 8, "shortcut": "D"}, (3, 15, 15)),
    "pre-activation": ("preact_resnet", {"depth": 8}, (3, 16, 16)),
    "pre-activation, bottlenecks": ("preact_resnet", {"depth": 11, "bottleneck": True}, (3, 16, 16)),
    "wide": ("wide_resnet", {"depth": 10, "widen": 2, "dropout": 0.3}, (3, 16, 16)),
    "dense": ("cifar_densenet", {"depth": 13, "growth": 4}, (3, 16, 16)),
    "dense, bottlenecks": ("cifar_densenet", {"depth": 16, "growth": 4, "bottleneck": True}, (3, 16, 16)),
    "unet": ("unet", {"width": 4, "depth": 2}, (1, 16, 16)),
    "unet, valid": ("unet", {"width": 4, "depth": 2, "padding": "valid"}, (1, 48, 48)),
    "unet, add": ("unet", {"width": 4, "depth": 2, "merge": "add"}, (1, 16, 16)),
    "convnext": ("convnext_tiny", {"depths": (1, 1, 2), "width": 8, "scale": 0.5}, (3, 36, 36)),
    "rdnet": ("rdnet_tiny", {"stem": 16, "growth": (8, 8, 16), "halving": (2,), "scale": 0.5}, (3, 24, 16)),
    "linknet": ("linknet", {"width": 8, "num_classes": 3}, (3, 32, 64)),
    "u-net++": ("unet_plus_plus", {"width": 4, "depth": 2, "supervised": True}, (1, 16, 16)),
    "hourglass": ("hourglass", {"stacks": 2, "joints": 3, "width": 8, "order": 2}, (3, 32, 32)),
    "fpn": ("fpn", {"depth": 18, "width": 8}, (3, 64, 32)),
    "vit": ("vit_tiny", VIT, (3, 32, 32)),
    "vit, post-norm": ("vit_tiny", {**VIT, "residual": "post-norm"}, (3, 32, 32)),
    "vit, sandwich": ("vit_tiny", {**VIT, "residual": "sandwich"}, (3, 32, 32)),
    "vit, deepnorm": ("vit_tiny", {**VIT, "residual": "deepnorm"}, (3, 32, 32)),
    "vit, layerscale": ("vit_tiny", {**VIT, "residual": "layerscale"}, (3, 32, 32)),
    "deep & cross": ("deep_cross", {"inputs": 6, "hidden": (8,)}, (6,)),
    "deep & cross, parallel": ("deep_cross", {"structure": "parallel", "rank": 2}, (16,)),
    "fixup": ("fixup_resnet", {"depth": 8}, (3, 16, 16)),
    "highway": ("highway", {"layers": 4}, (64,)),
    "rezero": ("rezero_mlp", {"inputs": 6, "width": 8, "layers": 4}, (6,)),
    "tabular": ("tabular_resnet", {}, (8,)),
    "lang and witbrock": ("lang_witbrock", {}, (2,)),
    "cascade": ("cascade", {}, (2,)),
    "cifar, groups": ("cifar_resnext", {"cardinality": 4, "width": 2, "depth": 11}, (3, 16, 16)),
    "repvgg": ("repvgg", {"num_classes": 5}, (3, 40, 40)),
    "repvgg, deployed": ("repvgg", {"num_classes": 5, "deployed": True}, (3, 40, 40)),
    "mobileone": ("mobileone", {"num_classes": 5, "variant": "s1"}, (3, 40, 40)),
    "dirac": ("dirac", {"depth": 10, "widen": 1}, (3, 16, 16)),
    "dirac, deployed": ("dirac", {"depth": 10, "widen": 1, "deployed": True}, (3, 16, 16)),
    "pyramid": ("pyramidnet", {"depth": 8, "alpha": 9}, (3, 15, 15)),
    "pyramid, bottlenecks": ("pyramidnet", {"depth": 11, "alpha": 9, "bottleneck": True}, (3, 16, 16)),
    "stochastic depth": ("stochastic_depth_resnet", {"depth": 8, "survival": 0.999}, (3, 16, 16)),
    "shake-shake": ("shake_shake", {"depth": 8, "width": 8}, (3, 16, 16)),
    "fractal": ("fractalnet", {"widths": (4, 8), "dropout": (0, 0), "drop_path": 0.0, "share": 0.0}, (3, 16, 16)),
    "dual path": ("dual_path", {"num_classes": 5, "depth": 68}, (3, 40, 40)),
}
BIG = (
    "norm-free", "squeeze and excitation", "fpn", "deep stem", "resnet A", "resnet B", "resnet C", "resnet D",
    "bottlenecks", "groups",
)  # fmt: skip

#: these take seconds to trace, and others have all that is in them
HEAVY = ("hourglass", "linknet", "dual path", "mobileone", "repvgg")
#: what has no gradient in the first step, since a number begins at 0 that multiplies it or what is made of it
ASLEEP = {"rezero": r"body\.(?!.*scale)", "fixup": r"(?!head)", "norm-free": r"stage\d\.\d+\.(body\.)?\d"}
#: here shortcuts put another value in the place of the one along the chain, which has other sizes without them
REPLACING = ("u-net++", "fpn")


@pytest.fixture(scope="module", params=SMALL)
def case(request):
    torch.manual_seed(0)
    name, options, shape = SMALL[request.param]
    return request.param, make(name, **options), torch.randn(2, *shape)


def test_forward_and_gradients(case):
    which, net, x = case
    net.train()
    net.zero_grad()
    out = net(x)
    # the sum of what comes out, weighted: norms would take away a plain sum
    (out * torch.linspace(0.5, 1.5, out.numel()).view_as(out)).sum().backward()
    missing = [name for name, p in net.named_parameters() if p.grad is None]
    # the coarser maps of a pyramid do not go into the finest one
    assert not missing or (which == "fpn" and {name.split(".")[0] for name in missing} == {"p3", "p4", "p5"})
    dead = [name for name, p in net.named_parameters() if p.grad is not None and not p.grad.any()]
    assert not dead or all(re.match(ASLEEP[which], name) for name in dead)
    assert out.shape[0] == 2
    assert out.isfinite().all()


def test_batch_of_one(case):
    _, net, x = case
    net.eval()
    with torch.no_grad():
        both, one = net(x), net(x[:1])
    assert one.shape == (1, *both.shape[1:])
    assert torch.allclose(one, both[:1], atol=1e-5)


def test_state_dict_round_trip(case):
    which, net, x = case
    name, options, _ = SMALL[which]
    net.eval()
    fresh = make(name, **options).eval()
    assert fresh.load_state_dict(net.state_dict()).missing_keys == []
    with torch.no_grad():
        assert torch.equal(fresh(x), net(x))


@pytest.mark.parametrize("case", [key for key in SMALL if key not in BIG], indirect=True)
def test_copies_compute_the_same(case):
    _, net, x = case
    net.eval()
    with torch.no_grad():
        y = net(x)
        assert torch.equal(copy.deepcopy(net)(x), y)
        assert torch.equal(pickle.loads(pickle.dumps(net))(x), y)


@pytest.mark.parametrize("case", [key for key in SMALL if key not in BIG and len(SMALL[key][2]) == 3], indirect=True)
def test_channels_last(case):
    _, net, x = case
    net.eval()
    with torch.no_grad():
        y, last = net(x), net(x.contiguous(memory_format=torch.channels_last))
    assert torch.allclose(last, y, atol=1e-5 * y.abs().max().item() + 1e-6)


@pytest.mark.parametrize("case", [key for key in SMALL if key not in BIG], indirect=True)
def test_half_precision_is_finite_and_near(case):
    _, net, x = case
    net.eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        half = net(x).float()
    with torch.no_grad():
        y = net(x)
    assert half.isfinite().all()
    assert (half - y).abs().max() <= 0.1 * y.abs().max() + 1e-3


@pytest.mark.parametrize("which", [key for key in SMALL if key not in BIG and key not in HEAVY])
def test_an_exported_net_computes_the_same(which):
    name, options, shape = SMALL[which]
    torch.manual_seed(0)
    net, x = make(name, **options).eval(), torch.randn(2, *shape)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own
        exported = torch.export.export(net, (x,)).module()
    with torch.no_grad():
        assert torch.allclose(exported(x), net(x), atol=1e-5, rtol=1e-4)


def test_repr_builds_it_again(case):
    _, net, _ = case
    again = eval(repr(net), {**vars(zoo), **vars(skipway), "nn": nn, "F": nn.functional})
    assert isinstance(again, Chain)
    assert repr(again) == repr(net)
    assert [(k, v.shape) for k, v in again.state_dict().items()] == [(k, v.shape) for k, v in net.state_dict().items()]


def test_it_prints(case):
    _, net, _ = case
    lines = str(net).splitlines()
    assert all(len(line) <= 100 for line in lines)
    assert f"{sum(p.numel() for p in net.parameters()):,} parameters" in lines[0]


def test_plain_twin(case):
    which, net, x = case
    if which == "rdnet":  # its widths are written for what is concatenated
        with pytest.raises(skipway.ShapeError):
            net.plain()
        return
    plain = copy.deepcopy(net).plain() if which not in BIG else net.plain()
    assert not [m for m in plain.modules() if isinstance(m, Chain) and m.wiring]
    with torch.no_grad():
        same = plain.eval()(x).shape == net.eval()(x).shape
    assert same or which in REPLACING


@pytest.mark.parametrize("which", [key for key in SMALL if key not in BIG])
def test_a_step_of_training(which):
    name, options, shape = SMALL[which]
    torch.manual_seed(0)
    net = make(name, **options)
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3)
    before = {key: p.detach().clone() for key, p in net.named_parameters()}
    (net(torch.randn(2, *shape)) - 1).square().mean().backward()
    optimizer.step()
    assert any(not torch.equal(p, before[key]) for key, p in net.named_parameters())
    assert all(p.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize(
    "which", ["cifar A", "dense", "unet", "vit, deepnorm", "highway", "shake-shake", "fractal", "dirac", "deep & cross"]
)
def test_a_compiled_net_computes_the_same(which):
    torch._dynamo.reset()
    name, options, shape = SMALL[which]
    torch.manual_seed(0)
    net, x = make(name, **options).eval(), torch.randn(2, *shape)
    with torch.no_grad():
        assert torch.equal(torch.compile(net, backend="eager", fullgraph=True)(x), net(x))
