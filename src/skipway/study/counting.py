"""Paths of a wiring with many shortcuts: the dynamic programming of :mod:`~skipway.study.lengths`, in matrices.

What the values read of each other is a triangular matrix of small whole numbers. The counts of each length, in limbs of
some forty bits, are rows of another; so nearly all additions are products of matrices of doubles, and exact, since a
limb holds so few bits that no sum passes 2**53.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skipway.study.lengths import Unit, ends_of, places_of, spread

#: values that are worked out one by one, before the next take all of them at once
_BLOCK = 64

Doubles = NDArray[np.float64]


@dataclass
class Reads:
    """What each value of a chain of layers that are alike reads of those before."""

    layers: int
    plain: Doubles
    """How often value j takes value i as it is, at ``[j, i]``."""
    later: Doubles
    """How often it takes value i after one more step."""
    own: NDArray[np.int64]
    """The length of the way from each value to the next, merge and all."""

    @classmethod
    def of(cls, layers: int, shortcuts: NDArray[np.int64], step: int, merge: int) -> Reads:
        """From a row of each shortcut (start, end, taps the branch); a layer is ``step`` long, a merge ``merge``."""
        start, end, tapped = shortcuts.T
        plain, later = np.zeros((2, layers + 1, layers + 1))
        branch = (tapped == 1) & (start > 0)  # what the layer before makes of the value before
        np.add.at(plain, (end[~branch], start[~branch]), 1)
        np.add.at(later if step else plain, (end[branch], start[branch] - 1), 1)
        own = np.full(layers + 1, step)
        own[np.unique(end)] += merge
        return cls(layers, plain, later, own)

    def bits(self) -> Doubles:
        """How many bits the number of paths to each value has, rounded up."""
        logs = np.zeros(self.layers + 1)
        for j in range(1, self.layers + 1):
            times = self.plain[j, :j] + self.later[j, :j]
            times[j - 1] += 1
            read = times > 0
            logs[j] = np.logaddexp2.reduce(logs[:j][read] + np.log2(times[read]))
        return np.ceil(logs + 1e-6 * (1 + logs)) + 1


def of_wiring(wiring: Any, layers: int, unit: Unit) -> tuple[int, ...]:
    """The paths through so many layers that are alike, by length, by whichever way is the faster. Exact."""
    shortcuts = ends_of(wiring, layers)
    more_to_add_than_to_carry = len(shortcuts) > 20 * layers
    has_room = layers**3 / 40 * 8 < 2**30  # a count may have a bit a layer
    if more_to_add_than_to_carry and has_room:
        return counts(Reads.of(layers, shortcuts, step=int(unit == "layers"), merge=int(unit == "blocks")))
    return spread(places_of(shortcuts, layers), unit).counts()


def counts(reads: Reads) -> tuple[int, ...]:
    """The paths to the last value, by length. Exact."""
    most = int((reads.plain + reads.later).sum(1).max()) + 1
    width = 51 - most.bit_length()
    limbs = np.ceil(reads.bits() / width).astype(int)  # of each value; never fewer than of the one before
    n = reads.layers + 1
    blocks: list[Doubles] = []  # the counts of some values: limb, value, length; no larger than they need
    for first in range(0, n, _BLOCK):
        last = min(first + _BLOCK, n)
        block = np.zeros((int(limbs[last - 1]), last - first, last + 1))
        _from_before(reads, blocks, block, first, last)
        before = blocks[-1][:, -1] if blocks else np.ones((1, 1))
        for j in range(first, last):
            value = block[: limbs[j], j - first, : j + 2]
            if j:
                _finish(reads, block, before, first, j, value, width)
            else:
                value[0, 0] = 1  # the input: one path, of no length
            before = value[:, : j + 1]
        blocks.append(block)
    found = [sum(int(limb) << (width * k) for k, limb in enumerate(column)) for column in before.T]
    while not found[-1]:
        found.pop()
    return tuple(found)


def _from_before(reads: Reads, blocks: list[Doubles], block: Doubles, first: int, last: int) -> None:
    """Into the values from ``first`` to before ``last``: what they read of the blocks before."""
    for which, given in enumerate(blocks):
        begin, end = which * _BLOCK, (which + 1) * _BLOCK
        room = np.empty((last - first, end))
        for read, shift in ((reads.plain, 0), (reads.later, 1)):
            times = read[first:last, begin:end]
            for limb in range(len(given) if times.any() else 0):
                block[limb, :, shift : end + shift] += np.matmul(times, given[limb, :, :end], out=room)


def _finish(reads: Reads, block: Doubles, before: Doubles, first: int, j: int, value: Doubles, width: int) -> None:
    """Value j, of which all is there but what it reads of its own block, and what its layer brings."""
    near = block[: len(value), : j - first, :j]
    for read, shift in ((reads.plain, 0), (reads.later, 1)):
        if read[j, first:j].any():
            value[:, shift : j + shift] += np.matmul(read[j, first:j], near)
    own = int(reads.own[j])
    value[: len(before), own : j + own] += before[:, :j]
    # one round of carries is enough: what is left over in a limb is as small as the number of values that are read
    over = np.floor(value[:-1] * 2.0**-width)
    value[1:] += over
    over *= 2.0**width
    value[:-1] -= over
