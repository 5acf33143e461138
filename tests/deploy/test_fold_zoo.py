"""Folding holds for every family of the zoo, and finds in each what there is to find."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from skipway import zoo
from skipway.deploy import fold

BATCH_NORM = nn.modules.batchnorm._BatchNorm

#: name, options, shape of the input, and norms that have to stay
SMALL = {
    "resnet A": ("resnet18", {"num_classes": 5, "shortcut": "A"}, (3, 33, 33), 0),
    "resnet B": ("resnet18", {"num_classes": 5}, (3, 33, 33), 0),
    "resnet D": ("resnet50", {"num_classes": 5, "shortcut": "D"}, (3, 33, 33), 0),
    "cifar C": ("cifar_resnet", {"depth": 8, "shortcut": "C"}, (3, 16, 16), 0),
    "pre-activation": ("preact_resnet", {"depth": 8}, (3, 16, 16), 3),
    "pre-activation, bottlenecks": ("preact_resnet", {"depth": 11, "bottleneck": True}, (3, 16, 16), 2),
    "wide": ("wide_resnet", {"depth": 10, "widen": 2, "dropout": 0.3}, (3, 16, 16), 2),
    "dense": ("cifar_densenet", {"depth": 13, "growth": 4}, (3, 16, 16), 9),
    "dense, bottlenecks": ("cifar_densenet", {"depth": 16, "growth": 4, "bottleneck": True}, (3, 16, 16), 0),
    "unet": ("unet", {"width": 4, "depth": 2}, (1, 16, 16), 0),
    "highway": ("highway", {"layers": 4}, (64,), 0),
    "rezero": ("rezero_mlp", {"inputs": 6, "width": 8, "layers": 4}, (6,), 0),
    "tabular": ("tabular_resnet", {}, (8,), 0),
    "cascade": ("cascade", {}, (2,), 0),
    "repvgg": ("repvgg", {"variant": "a0", "groups": 4, "num_classes": 5}, (3, 32, 32), 0),
    "mobileone": ("mobileone_s0", {"num_classes": 5}, (3, 32, 32), 0),
}


def trained(name, options):
    """A net of the zoo as training would leave it: no norm is the identity, no gain as it began."""
    torch.manual_seed(0)
    net = zoo.make(name, **options).eval()
    for module in net.modules():
        if isinstance(module, BATCH_NORM):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
            with torch.no_grad():
                module.weight.uniform_(-0.5, 1.5)
                module.bias.normal_()
    for name, parameter in net.named_parameters():
        if name.endswith("scale"):
            parameter.data.uniform_(0.1, 1.0)
    return net


@pytest.mark.parametrize("which", SMALL)
def test_small(which):
    name, options, shape, stay = SMALL[which]
    net = trained(name, options)
    x = torch.randn(2, *shape)
    folded = fold(net, x)
    exact, rounded = folded.report.differences
    assert exact.relative < 1e-12
    assert rounded.relative < 1e-5
    assert sum(isinstance(m, BATCH_NORM) for m in folded.modules()) == stay
    assert not [r for r in folded.report.refusals if "shortcut" not in r.kind and r.kind != "norm stays"]
    # any other size too, and what was asked of values by name is there still
    with torch.no_grad():
        other = torch.randn(1, *shape[:1], *[s + 8 for s in shape[1:]])
        if which != "unet" or shape[1] % 4 == 0:
            assert torch.allclose(folded(other), net(other), rtol=1e-3, atol=1e-3 * float(net(other).abs().max()))
    stages = [key for key in net._keys if len(net._modules[key]._modules) > 1]
    for stage in stages:
        if stage in folded._keys:
            assert torch.allclose(folded.features(x, [stage])[stage], net.features(x, [stage])[stage], atol=1e-3)


@pytest.mark.parametrize("name", ["repvgg_a0", "mobileone_s1"])
def test_as_large_as_published_when_deployed(name):
    net = zoo.make(name).eval()
    deployed = zoo.make(name, deployed=True)
    folded = fold(net, check=False)
    count = sum(p.numel() for p in folded.parameters())
    assert count == sum(p.numel() for p in deployed.parameters())
    if name == "repvgg_a0":
        assert (sum(p.numel() for p in net.parameters()), count) == (9_108_968, 8_309_384)
    # the weights fit, layer by layer
    for mine, theirs in zip(folded.state_dict().values(), deployed.state_dict().values(), strict=True):
        assert mine.shape == theirs.shape
