"""The update of a step, with what torch's Adam looks up at every step looked up once an epoch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim import Adam, AdamW, Optimizer
from torch.optim import optimizer as hooks

#: the kernels that torch's fused Adams end in, which are private: the first step with them is compared with torch's own
_KERNELS = {Adam: "_fused_adam_", AdamW: "_fused_adamw_"}


class Update:
    """``update()`` is ``optimizer.step()``, and does the same to the last bit.

    For a net of some layers a fused Adam spends a third of its step on sorting tensors by device and on looking up
    their state. Here that is done once, after :meth:`begin`, and what may change from step to step (learning rates,
    gradients) is read anew. Optimizers of other kinds, and those that something hooks or wraps, are called as they are.

    >>> weight = torch.nn.Parameter(torch.ones(2))
    >>> weight.grad = torch.ones(2)
    >>> optimizer = Adam([weight], lr=0.1, fused=True)
    >>> update = Update(optimizer)
    >>> for _ in range(3):
    ...     update()
    >>> update.quick, weight.data
    (True, tensor([0.7000, 0.7000]))
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        self._kernel = getattr(torch, _KERNELS.get(type(optimizer), ""), None)
        self._groups: list[tuple[dict[str, Any], list[Tensor], list[list[Tensor]]]] = []
        self.begin()

    @property
    def quick(self) -> bool:
        """Whether the next update is one with what was looked up."""
        return bool(self._groups)

    def begin(self) -> None:
        """Called before an epoch: what a callback may have changed is looked up anew."""
        self._groups, self._steps = [], 0

    def __call__(self) -> None:
        if self._groups and self._quick():
            return
        if self._kernel is not None and self._steps == 1 and self._is_plain():
            self._look_up()
            return
        self._optimizer.step()
        self._steps += 1

    def _is_plain(self) -> bool:
        own = self._optimizer
        hooked = own._optimizer_step_pre_hooks or own._optimizer_step_post_hooks or "step" in own.__dict__
        everywhere = hooks._global_optimizer_pre_hooks or hooks._global_optimizer_post_hooks
        fit = all(
            group["fused"] and not (group["amsgrad"] or group["differentiable"] or isinstance(group["lr"], Tensor))
            and all(type(p) is torch.nn.Parameter and p.device.type == "cpu" and p.grad is not None
                    and p.dtype == group["params"][0].dtype and p in own.state for p in group["params"])
            for group in own.param_groups
        )  # fmt: skip
        return fit and not (hooked or everywhere or hasattr(own, "grad_scale") or hasattr(own, "found_inf"))

    def _look_up(self) -> None:
        """Torch's own step, with a quick one beside it on copies, which must come to the same."""
        groups, copies = [], []
        for group in self._optimizer.param_groups:
            state = [self._optimizer.state[p] for p in group["params"]]
            held = [[s[name] for s in state] for name in ("exp_avg", "exp_avg_sq", "step")]
            groups.append((group, group["params"], held))
            copies.append(
                (group, [p.detach().clone() for p in group["params"]], [[t.clone() for t in k] for k in held])
            )
            for copy, p in zip(copies[-1][1], group["params"], strict=True):
                copy.grad = p.grad
        self._groups = copies
        self._quick()
        self._optimizer.step()
        self._groups = groups
        pairs = [
            (a, b)
            for (_, mine, kept), (_, own, real) in zip(copies, groups, strict=True)
            for a, b in zip([*mine, *(t for k in kept for t in k)], [*own, *(t for k in real for t in k)], strict=True)
        ]
        if not all(torch.equal(a, b) for a, b in pairs):
            self._kernel, self._groups = None, []

    @torch.no_grad()
    def _quick(self) -> bool:
        """The update; False, with nothing done, where a parameter has no gradient now."""
        gradients = [[p.grad for p in parameters] for _, parameters, _ in self._groups]
        if any(g is None for given in gradients for g in given):
            return False
        for (group, parameters, (means, squares, steps)), given in zip(self._groups, gradients, strict=True):
            torch._foreach_add_(steps, 1)
            beta1, beta2 = group["betas"]
            self._kernel(  # type: ignore[misc]
                parameters, given, means, squares, [], steps, lr=group["lr"], beta1=beta1, beta2=beta2,
                weight_decay=group["weight_decay"], eps=group["eps"], amsgrad=False, maximize=group["maximize"],
            )  # fmt: skip
        return True
