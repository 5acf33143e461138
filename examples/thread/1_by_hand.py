"""Shortcuts written by hand, and the same network as a chain. Are the gradients right?

The question: "`Chain(Dense(10, 5, relu), Dense(5, 4, relu), Dense(4, 2, relu))` gives me a feed-forward neural
network, but how can I incorporate shortcut connections into that?"

The first answer it got was to write the forward pass oneself: keep the weights in a list, and let every layer read
the output of the layer before it and, beside that, what this layer had read. Its author added: "I have not verified
the gradients." Here they are verified, in two ways, and then the network is written again in five lines.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from skipway import Chain, Dense, Shortcut, relu

# float64 throughout: finite differences lose half of the digits, and float32 has only seven
torch.manual_seed(0)
X = torch.randn(8, 10, dtype=torch.float64)
Y = torch.randn(8, 2, dtype=torch.float64)

# ---------------------------------------------------------------------------------------------------------------------
# By hand: weights in a list, widths counted on one's fingers (10, then 5 + 10, then 4 + 15)

WIDTHS = [(10, 5), (15, 4), (19, 2)]
w = []
for n_in, n_out in WIDTHS:
    w += [torch.randn(n_out, n_in, dtype=torch.float64) * 0.3, torch.randn(n_out, dtype=torch.float64) * 0.1]
for parameter in w:
    parameter.requires_grad_()


def predict(w: list[Tensor], x: Tensor) -> Tensor:
    for i in range(0, len(w), 2):
        y = relu(x @ w[i].T + w[i + 1])
        x = torch.cat([y, x], dim=-1)  # what the next layer reads: the output, and beside it the input
    return y


def loss(w: list[Tensor], x: Tensor, y: Tensor) -> Tensor:
    return F.mse_loss(predict(w, x), y)


# ---------------------------------------------------------------------------------------------------------------------
# As a chain: the layers, and beside them the list of shortcuts. `...` is the width of whatever arrives.

net = Chain(
    Dense(10, 5, relu),
    Dense(..., 4, relu),
    Dense(..., 2, relu),
    wiring=[Shortcut(0, 1, merge="cat"), Shortcut(1, 2, merge="cat")],
).double()
print(net, "\n")

with torch.no_grad():
    for mine, theirs in zip(net.parameters(), w, strict=True):
        mine.copy_(theirs)
difference = (net(X) - predict(w, X)).abs().max().item()
print(f"largest difference between the two outputs: {difference:.1e}")

# ---------------------------------------------------------------------------------------------------------------------
# The gradients, first with a ruler of our own: move one weight a little up and down, and see what the loss does


def central_difference(f, parameters: list[Tensor], step: float = 1e-6) -> list[Tensor]:
    slopes = [torch.zeros_like(p) for p in parameters]
    with torch.no_grad():
        for parameter, slope in zip(parameters, slopes, strict=True):
            at, to = parameter.view(-1), slope.view(-1)
            for i in range(len(at)):
                kept = at[i].item()
                at[i] = kept + step
                up = f()
                at[i] = kept - step
                to[i] = (up - f()) / (2 * step)
                at[i] = kept
    return slopes


weights = list(net.parameters())
ways = {"by hand": (w, lambda: loss(w, X, Y)), "chain": (weights, lambda: F.mse_loss(net(X), Y))}
errors = {}
for name, (parameters, f) in ways.items():
    slopes = central_difference(f, parameters)
    gradients = torch.autograd.grad(f(), parameters)
    errors[name] = max((g - s).abs().max().item() for g, s in zip(gradients, slopes, strict=True))
    print(f"{name:8s} largest error of {sum(p.numel() for p in parameters)} gradients: {errors[name]:.1e}")

# ---------------------------------------------------------------------------------------------------------------------
# And with torch's: gradcheck raises where an analytic and a numeric gradient differ


names = [name for name, _ in net.named_parameters()]


def net_of(*values: Tensor) -> Tensor:
    return torch.func.functional_call(net, dict(zip(names, values, strict=True)), X)


checked = torch.autograd.gradcheck(net_of, weights) and torch.autograd.gradcheck(net, X.clone().requires_grad_())
print(f"torch.autograd.gradcheck, weights and input: {'passed' if checked else 'failed'}\n")

# ---------------------------------------------------------------------------------------------------------------------
# What runs when the chain is called is what one would have written

print(net.code)
