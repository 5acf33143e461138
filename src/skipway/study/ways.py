"""The same deep chain with shortcuts and without: the nets that ``skipway compare`` compares."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from skipway.chain import Chain
from skipway.errors import ChainError
from skipway.functional import relu
from skipway.gains import Learned
from skipway.layers import Dense
from skipway.wiring import Wiring, every


@dataclass(frozen=True)
class Ways:
    """Functions that make the nets, by name, the wiring of each as it is written, and what each is, in words."""

    nets: dict[str, Callable[[], Chain]]
    wirings: dict[str, str]
    notes: dict[str, str]


def ways(depth: int = 50, width: int = 64, *, features: int = 784, classes: int = 10, step: int = 1) -> Ways:
    """One chain of ``depth`` layers ``Dense(width, width, relu)`` between a stem and a head, in four ways.

    - ``plain``: no shortcuts.
    - ``plain, He init``: no shortcuts, weights as He et al. 2015 (1502.01852) draw them for relu: the strongest plain
      control. The others begin as ``Dense`` makes them, all three with the same weights.
    - ``shortcuts``: one around every ``step`` layers, the branch times ``1 / sqrt(number of shortcuts)``, so that the
      sum does not grow with depth (2010.12859).
    - ``ReZero``: the same shortcuts, the branch times a learned number that begins at 0 (2003.04887).

    ``features`` and ``classes`` are the widths of the input and the output.

    Raises ``ChainError`` for a size that is not positive, or a step longer than the chain is deep.

    >>> made = ways(depth=4, width=8)
    >>> {name: len(list(net().parameters())) for name, net in made.nets.items()}
    {'plain': 12, 'plain, He init': 12, 'shortcuts': 12, 'ReZero': 16}
    >>> made.wirings["shortcuts"]
    'every(1, scale=0.5)'
    """
    for name, size in (("depth", depth), ("width", width), ("features", features), ("classes", classes)):
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ChainError(f"{name} must be a whole number of at least 1, not {size!r}")
    if isinstance(step, bool) or not isinstance(step, int) or not 1 <= step <= depth:
        raise ChainError(f"a shortcut goes around 1 to {depth} layers, as many as the chain is deep, not {step!r}")
    scale = 1 / math.sqrt(depth // step)
    constant, learned = every(step, scale=round(scale, 6)), every(step, scale=Learned(0.0))

    def chain(wiring: Wiring) -> Chain:
        body = Chain(*[Dense(width, width, relu) for _ in range(depth)], wiring=wiring)
        return Chain(stem=Dense(features, width, relu), body=body, head=Dense(width, classes))

    nets = {
        "plain": lambda: chain(constant).plain(),
        "plain, He init": lambda: he(chain(constant).plain()),
        "shortcuts": lambda: chain(constant),
        "ReZero": lambda: chain(learned),
    }
    around = "each layer" if step == 1 else f"every {step} layers"
    return Ways(
        nets,
        {"plain": "none", "plain, He init": "none", "shortcuts": repr(constant), "ReZero": repr(learned)},
        {
            "plain": "the layers one after the other",
            "plain, He init": "the same, with initial weights that suit relu (1502.01852): the fairest control",
            "shortcuts": f"a shortcut around {around}, the branch times 1/sqrt({depth // step}) = {scale:.3g}, "
            "so that the sum does not grow with depth (2010.12859)",
            "ReZero": f"a shortcut around {around}, the branch times a learned number that begins at 0 (2003.04887)",
        },
    )


def he(net: Chain) -> Chain:
    """The net with fresh weights as He et al. 2015 (1502.01852) draw them for relu, and biases of 0.

    >>> bool((he(Chain(Dense(4, 3, relu)))[0].bias == 0).all())
    True
    """
    from skipway.zoo import initialise  # not needed where nothing is compared

    return initialise.he(net, "fan_in", dense=True)
