"""`IdentitySkip` and `CatSkip`: a shortcut around some layers, used like a layer.

The question: can I have a thing that computes `inner(x) + x`, and one that computes `cat(inner(x), x)`, and put them
into a `Chain` like any other layer?

Both are the same thing with another merge: `Skip(*layers, merge=...)` is a chain with one shortcut from its input to
its output. So it nests, it can be inspected, and it is checked: where the widths do not fit, the network is refused
when it is built, never broadcast in silence.
"""

from textwrap import indent

import torch

from skipway import CatSkip, Chain, Dense, IdentitySkip, ShapeError, Skip, relu

torch.manual_seed(0)
x = torch.randn(3, 10)

# ---------------------------------------------------------------------------------------------------------------------
# The two of them in a chain. A sum keeps the width, a concatenation widens: 5 becomes 4 + 5.

net = Chain(
    Dense(10, 5, relu),
    IdentitySkip(Dense(5, 5, relu)),
    CatSkip(Dense(5, 4, relu)),
    Dense(9, 2),
)
print(net, "\n")

# ---------------------------------------------------------------------------------------------------------------------
# They compute what they say

with torch.no_grad():
    h = net[0](x)
    added, joined = net[1], net[2]
    assert torch.equal(added(h), added[0](h) + h)
    assert torch.equal(joined(h), torch.cat([joined[0](h), h], dim=-1))
print("IdentitySkip is inner(x) + x, CatSkip is cat(inner(x), x):", tuple(added(h).shape), tuple(joined(h).shape))

# ---------------------------------------------------------------------------------------------------------------------
# One mechanism, not two. A Skip is a chain of its layers with a wiring of one shortcut.

print("\nIdentitySkip(...) is", added)
assert repr(IdentitySkip(Dense(5, 5))) == repr(Skip(Dense(5, 5), merge="add"))
assert repr(CatSkip(Dense(5, 4))) == repr(Skip(Dense(5, 4), merge="cat"))

# So any merge goes: mean, max, mul, gate (a Highway layer), or any function of (branch, shortcut)
half = Skip(Dense(5, 5, relu), merge=lambda branch, shortcut: 0.5 * branch + shortcut)
assert torch.equal(half(h), 0.5 * half[0](h) + h)

# Several layers inside, skips inside skips
deep = IdentitySkip(Dense(5, 8, relu), IdentitySkip(Dense(8, 8, relu)), Dense(8, 5))
print("\nskips inside skips:", deep, sep="\n")

# ---------------------------------------------------------------------------------------------------------------------
# Widths that do not fit. torch would add (3, 1) to (3, 5) by broadcasting, and train something else than was meant.

print("\nIdentitySkip(Dense(5, 1)) is refused:")
refused = ""
try:
    IdentitySkip(Dense(5, 1))
except ShapeError as error:
    refused = str(error)
print(indent(refused, "  "))

# What the message proposes: a learned linear map on the way (option B of arXiv 1512.03385)
print("\n", IdentitySkip(Dense(5, 1), path="project"), sep="")
