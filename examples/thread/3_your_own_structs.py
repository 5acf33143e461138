"""Your own classes, dataclasses and functions as layers: are the parameters inside them found?

The question: I wrote my skip as a plain struct and put it into the chain. The forward pass works. But `params(m)`
has 4 arrays where I expect 6: how do I tell the framework where the parameters of my struct are?

In PyTorch one tells it by deriving from `nn.Module`, and whoever forgets has a network that runs, and in which
something is never trained. A chain takes any object that can be called, looks into it (attributes, dataclass fields,
lists, closures) and registers what it finds. What could not be kept trained is refused when the chain is built, with
the name of the thing.
"""

from collections.abc import Callable
from dataclasses import dataclass
from textwrap import indent

import torch
from torch import Tensor, nn

from skipway import Chain, ChainError, Dense, fit, relu

torch.manual_seed(0)

# ---------------------------------------------------------------------------------------------------------------------
# The struct of the question: a plain class, no nn.Module in sight


class MyCatSkip:
    def __init__(self, inner):
        self.inner = inner

    def __call__(self, x: Tensor) -> Tensor:
        return torch.cat([self.inner(x), x], dim=-1)


class ByHand(nn.Module):
    """What goes wrong without a chain: a module does not look into plain objects."""

    def __init__(self):
        super().__init__()
        self.first, self.skip, self.last = nn.Linear(10, 5), MyCatSkip(nn.Linear(5, 4)), nn.Linear(9, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.skip(relu(self.first(x))))


net = Chain(Dense(10, 5, relu), MyCatSkip(Dense(5, 4)), Dense(9, 2))
counts = len(list(ByHand().parameters())), len(list(net.parameters()))
print(f"parameter tensors found: {counts[0]} in a hand-written nn.Module, {counts[1]} in the chain")
print(", ".join(name for name, _ in net.named_parameters()), "\n")

# ---------------------------------------------------------------------------------------------------------------------
# A class with weights of its own, a dataclass, and a function that closes over its weights


class Affine:
    def __init__(self, n_in: int, n_out: int):
        self.W = nn.Parameter(torch.randn(n_out, n_in) / n_in**0.5)
        self.b = nn.Parameter(torch.zeros(n_out))

    def __call__(self, x: Tensor) -> Tensor:
        return x @ self.W.T + self.b


@dataclass
class Scale:
    by: nn.Parameter

    def __call__(self, x: Tensor) -> Tensor:
        return x * self.by


def shifted(n: int) -> Callable[[Tensor], Tensor]:
    by = nn.Parameter(torch.zeros(n))
    return lambda x: x + by


affine = Affine(10, 5)
# what a plain object takes cannot be read off it, so input= says it
own = Chain(affine, relu, Scale(nn.Parameter(torch.ones(5))), shifted(5), Affine(5, 2), input=10)
print(own, "\n")

# ---------------------------------------------------------------------------------------------------------------------
# They move with the chain: float64 stands in for a GPU here, `.to("cuda")` goes the same way

own.to(torch.float64)
print("after .to(torch.float64), affine.W is", affine.W.dtype)
own.to(torch.float32)

# ---------------------------------------------------------------------------------------------------------------------
# They are trained: every tensor that was found moves

before = {name: p.detach().clone() for name, p in own.named_parameters()}
x = torch.randn(256, 10)
y = torch.stack([x[:, 0] * x[:, 1], x[:, 2].abs()], dim=-1)
history = fit(own, (x, y), epochs=20, batch=32, lr=0.01, device="cpu", progress=False)
moved = [name for name, p in own.named_parameters() if not torch.equal(p, before[name])]
print(f"20 epochs: loss {history[0]['train_loss']:.3f} -> {history[-1]['train_loss']:.3f},", end=" ")
print(f"{len(moved)} of {len(before)} tensors moved\n")

# ---------------------------------------------------------------------------------------------------------------------
# What is refused: places where weights could not be kept trained, or could not follow to another device

GLOBAL = nn.Parameter(torch.ones(5))


class NoParameter:
    def __init__(self):
        self.w = torch.ones(5, requires_grad=True)

    def __call__(self, x: Tensor) -> Tensor:
        return x * self.w


class InATuple:
    def __init__(self):
        self.weights = (nn.Parameter(torch.ones(5)), nn.Parameter(torch.zeros(5)))

    def __call__(self, x: Tensor) -> Tensor:
        return x * self.weights[0] + self.weights[1]


class InAList(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = [Dense(5, 5)]  # nn.Module does not look into lists either

    def forward(self, x: Tensor) -> Tensor:
        return self.inner[0](x)


once = Dense(5, 5)
tries: dict[str, Callable[[], Chain]] = {
    "a global variable": lambda: Chain(Dense(10, 5), lambda x: x * GLOBAL),
    "a tensor that is no nn.Parameter": lambda: Chain(Dense(10, 5), NoParameter()),
    "a tuple, which cannot be written to": lambda: Chain(Dense(10, 5), InATuple()),
    "a plain list in an nn.Module": lambda: Chain(Dense(10, 5), InAList()),
    "one layer at two places": lambda: Chain(Dense(10, 5), once, once),
}
refused = {}
for what, build in tries.items():
    try:
        build()
    except ChainError as error:
        refused[what] = str(error)
        print(f"refused, {what}:", indent(str(error), "  "), sep="\n")
