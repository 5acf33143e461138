"""Who looks on when layers are called."""

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from skipway.observed import HOOKS, all_observed, dispatched, observed, transformed


def test_every_kind_of_hook_is_seen():
    for register in (
        "register_forward_hook",
        "register_forward_pre_hook",
        "register_full_backward_hook",
        "register_full_backward_pre_hook",
    ):
        layer = nn.Linear(2, 2)
        assert not observed(layer)
        handle = getattr(layer, register)(lambda *_: None)
        assert observed(layer), register
        handle.remove()
        assert not observed(layer)
    layer.forward = lambda x: x
    assert observed(layer)
    assert all(hasattr(layer, hooks) for hooks in HOOKS)


def test_hooks_on_all_modules_are_seen():
    handle = nn.modules.module.register_module_forward_hook(lambda *_: None)
    try:
        assert all_observed()
    finally:
        handle.remove()
    assert not all_observed()


def test_modes_and_transforms_are_seen():
    assert not dispatched()
    assert not transformed()
    with FlopCounterMode(display=False):
        assert dispatched()
        assert transformed()
    seen = []
    torch.func.grad(lambda x: (seen.append((dispatched(), transformed())), x.sum())[1])(torch.ones(2))
    assert seen == [(False, True)]
