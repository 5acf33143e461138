"""The quick update is torch's own, to the last bit, and steps aside where something watches."""

import copy

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW

from skipway.train.optimizers import decay_groups
from skipway.train.update import Update


def twins(make):
    """Two nets with one optimizer each, alike."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    other = copy.deepcopy(net)
    return (net, make(net)), (other, make(other))


def steps(pairs, updates, number, seed=0):
    """As many steps for both, with the same gradients."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(number):
        gradients = [torch.randn(p.shape, generator=generator) for p in pairs[0][0].parameters()]
        for (net, _), update in zip(pairs, updates, strict=True):
            for p, g in zip(net.parameters(), gradients, strict=True):
                p.grad = g.clone()
            update()


def alike(pairs):
    (one, first), (other, second) = pairs
    states = zip(first.state_dict()["state"].values(), second.state_dict()["state"].values(), strict=True)
    assert all(torch.equal(a[key], b[key]) for a, b in states for key in a)
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


MAKE = {
    "adam": lambda net: Adam(net.parameters(), lr=0.1, fused=True),
    "adam, decay, largest": lambda net: Adam(net.parameters(), lr=0.1, weight_decay=0.1, maximize=True, fused=True),
    "adamw": lambda net: AdamW(decay_groups(net), lr=0.1, betas=(0.5, 0.9), eps=1e-3, fused=True),
}


@pytest.mark.parametrize("kind", MAKE)
def test_it_does_the_same_to_the_last_bit(kind):
    pairs = twins(MAKE[kind])
    update = Update(pairs[0][1])
    steps(pairs, (update, pairs[1][1].step), 5)
    assert update.quick
    assert alike(pairs)


def test_learning_rates_and_other_options_are_read_at_every_step():
    pairs = twins(MAKE["adamw"])
    updates = Update(pairs[0][1]), pairs[1][1].step
    steps(pairs, updates, 3)
    for _, optimizer in pairs:
        optimizer.param_groups[0].update(lr=0.01, weight_decay=0.5, betas=(0.1, 0.2))
    steps(pairs, updates, 3, seed=1)
    assert alike(pairs)


def test_state_that_was_loaded_is_looked_up_after_begin():
    pairs = twins(MAKE["adam"])
    update = Update(pairs[0][1])
    updates = update, pairs[1][1].step
    steps(pairs, updates, 3)
    kept = copy.deepcopy(pairs[0][1].state_dict())
    steps(pairs, updates, 2, seed=1)
    for _, optimizer in pairs:
        optimizer.load_state_dict(copy.deepcopy(kept))
    update.begin()
    assert not update.quick
    steps(pairs, updates, 3, seed=2)
    assert update.quick
    assert alike(pairs)


def test_a_step_without_one_of_the_gradients_is_torchs_own():
    pairs = twins(MAKE["adam"])
    update = Update(pairs[0][1])
    steps(pairs, (update, pairs[1][1].step), 3)
    for net, _ in pairs:
        for p in net.parameters():
            p.grad = torch.ones_like(p)
        net[0].bias.grad = None
    update()
    pairs[1][1].step()
    assert alike(pairs)


@pytest.mark.parametrize(
    "make",
    [
        lambda net: SGD(net.parameters(), lr=0.1, fused=True),
        lambda net: Adam(net.parameters(), lr=0.1),
        lambda net: Adam(net.parameters(), lr=0.1, amsgrad=True, fused=True),
    ],
)
def test_other_optimizers_are_called_as_they_are(make):
    pairs = twins(make)
    update = Update(pairs[0][1])
    steps(pairs, (update, pairs[1][1].step), 4)
    assert not update.quick
    assert alike(pairs)


def test_hooks_and_schedulers_see_every_step():
    pairs = twins(MAKE["adam"])
    seen = []
    pairs[0][1].register_step_post_hook(lambda *_: seen.append(1))
    update = Update(pairs[0][1])
    steps(pairs, (update, pairs[1][1].step), 4)
    assert len(seen) == 4
    assert not update.quick

    pairs = twins(MAKE["adam"])
    torch.optim.lr_scheduler.StepLR(pairs[0][1], 1)  # wraps step, and warns if it is not called
    update = Update(pairs[0][1])
    steps(pairs, (update, pairs[1][1].step), 4)
    assert not update.quick


def test_a_kernel_that_does_otherwise_is_not_used(monkeypatch):
    def wrong(parameters, *_, **__):
        for p in parameters:
            p.add_(1.0)

    pairs = twins(MAKE["adam"])
    with monkeypatch.context() as patch:
        update = Update(pairs[0][1])
        patch.setattr(update, "_kernel", wrong)
        steps(pairs, (update, pairs[1][1].step), 4)
    assert not update.quick
    assert alike(pairs)
