"""Options of nets that are out of range, in every family that checks them alike."""

from __future__ import annotations

import pytest

from skipway import ChainError
from skipway.zoo import make


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("convnext_tiny", {"width": 0}, "width= is a positive whole number, not 0"),
        ("convnext_tiny", {"depths": ()}, "depths= is a positive whole number, not 0"),
        ("convnext_tiny", {"depths": (3, -1)}, "depths= is a positive whole number, not -1"),
        ("vit_tiny", {"depth": 0}, "depth= is a positive whole number, not 0"),
        ("vit_tiny", {"heads": 1.5}, "heads= is a positive whole number, not 1.5"),
        ("vit_tiny", {"patch": -16}, "patch= is a positive whole number, not -16"),
        ("rdnet_tiny", {"stem": 0}, "stem= is a positive whole number, not 0"),
        ("rdnet_tiny", {"growth": (8, 0)}, "growth= is a positive whole number, not 0"),
        ("rdnet_tiny", {"growth": ()}, "growth= is a positive whole number, not 0"),
        ("nf_resnet50", {"alpha": True}, "alpha= is what a branch is multiplied by"),
        ("nf_resnet50", {"alpha": float("nan")}, "alpha= is what a branch is multiplied by"),
        ("deep_cross", {"rank": 0}, "rank= is a positive whole number, not 0"),
        ("hourglass", {"joints": True}, "joints= is a positive whole number, not True"),
        ("fpn", {"width": "256"}, "width= is a positive whole number, not '256'"),
        ("unet", {"width": 2.0}, "width= is a positive whole number, not 2.0"),
        ("highway", {"layers": 0}, "layers= is a positive whole number, not 0"),
        ("se_resnet50", {"squeeze": 0}, "'se_resnet50' says squeeze=16"),
        ("resnet50", {"squeeze": 0}, "SqueezeExcite: the reduction must be a positive whole number"),
        ("resnet18", {"squeeze": 128}, "SqueezeExcite.128. leaves less than one of 64 channels"),
    ],
)
def test_out_of_range(name, options, words):
    with pytest.raises(ChainError, match=words):
        make(name, **options)
