"""Shortcuts over k layers, overlapping ones, and ones that cross.

The question: my skip goes around one layer. How do I skip k of them? And what if one shortcut begins inside another
and ends outside it?

A wrapper around layers (`Skip`, or any function that takes the layers it goes around) can nest, and nothing else: of
two shortcuts that cross, neither lies inside the other. So a chain also takes its shortcuts as a list beside the
layers. `Shortcut(a, b)` joins *values*: 0 is the input, k the value after k layers, and a name the value after that
layer. Patterns such as `every(2)` make such lists, and add.
"""

import torch

from skipway import Chain, Dense, Shortcut, every, log2, relu, sliding

torch.manual_seed(0)
x = torch.randn(3, 8)


def net(wiring=(), depth: int = 6) -> Chain:
    return Chain(*[Dense(8, 8, relu) for _ in range(depth)], wiring=wiring)


# ---------------------------------------------------------------------------------------------------------------------
# Every k layers, one after the other: what He et al. drew for k = 2 (arXiv 1512.03385). The rails on the right run from
# the line where a shortcut leaves to the arrow where it arrives.

print("every(2):", net(every(2)), sep="\n")

# Over every run of 2 layers: each crosses the next one
print("\nsliding(2):", net(sliding(2)), sep="\n")

# From 2, 4, 8, ... layers before: far fewer than all pairs, and still a short way between any two (arXiv 1711.00002)
print("\nlog2():", net(log2()), sep="\n")

# A pattern prints as it is written; its list shows what it makes of a chain of some length
print("\nsliding(2) over 4 layers is", sliding(2)(4))

# ---------------------------------------------------------------------------------------------------------------------
# Two that cross, by name. Between "a" and "d" no bracket fits around one without cutting the other.

crossing = Chain(
    a=Dense(8, 8, relu),
    b=Dense(8, 8, relu),
    c=Dense(8, 8, relu),
    d=Dense(8, 8, relu),
    head=Dense(..., 2),
    wiring=[Shortcut("a", "c"), Shortcut("b", "d", merge="cat")],
)
print("\ntwo that cross:", crossing, sep="\n")

# The same by hand, to be sure
with torch.no_grad():
    a = crossing["a"](x)
    b = crossing["b"](a)
    c = crossing["c"](b) + a
    d = torch.cat([crossing["d"](c), b], dim=-1)
    assert torch.equal(crossing(x), crossing["head"](d))

# ---------------------------------------------------------------------------------------------------------------------
# Wirings are data: they add, they can be replaced, and your own pattern is a function of the chain's length

mixed = net(every(1) + every(3) + [Shortcut(0, 6)])
print("\nevery(1) + every(3) + [Shortcut(0, 6)]:", mixed, sep="\n")


def from_both_ends(n: int) -> list[Shortcut]:
    return [Shortcut(i, n - i) for i in range(n // 2)]


print("\na pattern of one's own:", net(from_both_ends), sep="\n")

# The same layers, other shortcuts: the new chain shares the weights, so the comparison is about the wiring alone
plain = mixed.plain()
rewired = plain.rewire(every(2))
assert rewired[0] is mixed[0]
print(f"\nshortcuts: {len(mixed.wiring)} mixed, {len(plain.wiring)} plain, {len(rewired.wiring)} rewired;", end=" ")
print(f"{sum(p.numel() for p in rewired.parameters())} parameters in each")
