"""The nets of the papers, one file an architecture family, built from skipway's own words.

>>> from skipway import zoo
>>> zoo.make("cifar_resnet20", shortcut="B")["stage2"][0].wiring
(Shortcut('input', 'output', path=Project(norm=BatchNorm), act=relu),)
>>> zoo.check("lang_witbrock").ok
True
"""

from __future__ import annotations

from .cifar import cifar_resnet, cifar_resnext, preact_resnet, wide_resnet
from .convnext import ChannelNorm, convnext
from .cost import Count, count
from .deep_cross import crosses, deep_cross
from .densenet import cifar_densenet, densenet121, densenet161, densenet169, densenet201, densenet264
from .dirac import dirac, diracnet
from .dual_path import dual_path
from .encoder_decoder import unet
from .fixup import Bias, fixup_resnet, fixup_resnet50
from .foreign import load
from .fpn import fpn
from .fractal import fractalnet
from .hourglass import hourglass
from .linknet import linknet
from .mlp import cascade, highway, lang_witbrock, rezero_mlp, tabular_resnet
from .nf_resnet import ScaledConv, Times, nf_resnet, scaled_relu
from .published import Check, check
from .pyramidnet import pyramidnet
from .rdnet import LayerScale, image_mean, rdnet, weighed
from .registry import make, names
from .repvgg import mobileone, repvgg
from .resnet import (
    resnet18,
    resnet34,
    resnet50,
    resnet101,
    resnet152,
    resnet_d,
    resnext,
    se_resnet50,
    wide_resnet50_2,
    wide_resnet101_2,
)
from .stochastic import shake_shake, stochastic_depth_resnet
from .unet_plus_plus import unet_plus_plus
from .vit import Embedding, Heads, first_token, tokens, vit

__all__ = [
    "Bias", "ChannelNorm", "Check", "Count", "Embedding", "Heads", "LayerScale", "ScaledConv", "Times", "cascade",
    "check", "cifar_densenet", "cifar_resnet", "cifar_resnext", "convnext", "count", "crosses", "deep_cross",
    "densenet121", "densenet161", "densenet169", "densenet201", "densenet264", "dirac", "diracnet", "dual_path",
    "first_token", "fixup_resnet", "fixup_resnet50", "fpn", "fractalnet", "highway", "hourglass", "image_mean",
    "lang_witbrock", "linknet", "load", "make", "mobileone", "names", "nf_resnet", "preact_resnet",
    "pyramidnet", "rdnet", "repvgg", "resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnet_d",
    "resnext", "rezero_mlp", "scaled_relu", "se_resnet50", "shake_shake", "stochastic_depth_resnet", "tabular_resnet",
    "tokens", "unet", "unet_plus_plus", "vit", "weighed", "wide_resnet", "wide_resnet50_2", "wide_resnet101_2",
]  # fmt: skip
