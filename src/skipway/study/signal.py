"""``signal``: how values and gradients grow or shrink through a net before it learns, beside what theory expects."""

from __future__ import annotations

import copy
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from skipway.chain import Chain
from skipway.errors import ChainError
from skipway.graph import Graph, Node
from skipway.study.given import Bar, whole
from skipway.study.lengths import length_of
from skipway.study.result import COLOURS, GREYS, Result, aligned, as_json, short
from skipway.study.theory import MeanField, Theory
from skipway.study.walk import Walk, fit_input, need_chain
from skipway.train.guard import random_states, set_random_states

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: rows of the table, at most
_SHOWN = 24
#: a factor that counts as none over all layers
_SAME = 3.5
#: layers below which a change is told, and no law
_FEW = 8


@dataclass(frozen=True, repr=False)
class Signal(Result):
    """What :func:`signal` measured, value by value along the trunk.

    ``depths`` counts the layers with weights before each value. ``forward`` holds the mean square of each value, and
    ``backward`` the norm of the gradient there over that at the output, a tuple a draw of the net. ``theory_forward``
    and ``theory_backward`` are what wide nets of these layers do, None where there is no law; ``stopped`` says at what.
    """

    names: tuple[str, ...]
    depths: tuple[int, ...]
    forward: tuple[tuple[float, ...], ...]
    backward: tuple[tuple[float, ...], ...]
    theory_forward: tuple[float | None, ...]
    theory_backward: tuple[float | None, ...]
    stopped: str = ""
    seeds: tuple[int, ...] = (0,)
    rows_used: int = 0

    def mean(self, what: str) -> tuple[float, ...]:
        """The geometric mean over the draws of ``"forward"`` or ``"backward"``, a number a value.

        >>> Signal(("input",), (0,), ((1.0,), (4.0,)), ((1.0,), (1.0,)), (None,), (None,)).mean("forward")
        (2.0,)
        """
        if what not in ("forward", "backward"):
            raise ChainError(f'there is "forward" and "backward", not {what!r}')
        return tuple(_geometric(values) for values in zip(*getattr(self, what), strict=True))

    @property
    def gradient_ratio(self) -> float:
        """The norm of the gradient at the first value over that at the last."""
        ends = self.mean("backward")
        return ends[0] / ends[-1]

    def verdict(self) -> str:
        """What values and gradients do with depth, in a sentence each, computed.

        A law is told where something changes more than tenfold: exponential or a power of the depth, whichever fits
        better. Then where the theory ends, if it does.
        """
        back, fore = self.mean("backward"), self.mean("forward")
        backward = _law("Gradients", "on their way back", self.depths, back, back=True)
        forward = _law("Mean squares", "on their way", self.depths, fore, back=False)
        stopped = f" The theory ends where there is no law: {self.stopped}." if self.stopped else ""
        return f"{backward} {forward}{stopped}"

    def rows(self) -> list[tuple[str, ...]]:
        count = len(self.names)
        shown = sorted({round(i * (count - 1) / (min(count, _SHOWN) - 1)) for i in range(min(count, _SHOWN))})
        heads = ("value", "layers", "mean square", "theory", "gradient", "theory")
        fore, back = self.mean("forward"), self.mean("backward")
        made = [
            (self.names[i], str(self.depths[i]), short(fore[i]), _or_dash(self.theory_forward[i]), short(back[i]),
             _or_dash(self.theory_backward[i]))
            for i in shown
        ]  # fmt: skip
        return [heads, *made]

    def table(self) -> str:
        """A line a value along the trunk (some of them, where there are many), and the verdict."""
        return f"{aligned(self.rows())}\n\n{self.verdict()}"

    def to_dict(self) -> dict[str, Any]:
        """Everything measured, as JSON has it: a number that is not finite is None."""
        made: dict[str, Any] = as_json(
            {
                "names": self.names, "depths": self.depths, "forward": self.forward, "backward": self.backward,
                "theory_forward": self.theory_forward, "theory_backward": self.theory_backward,
                "stopped": self.stopped or None, "seeds": self.seeds, "rows": self.rows_used,
                "verdict": self.verdict(),
            }
        )  # fmt: skip
        return made

    def plot(self, path: str | Path | None = None) -> Figure:
        """Mean square and gradient over the depth, a thin line a draw, with the theory over them; written to ``path``
        if given."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(10, 4), layout="constrained")
        panels = (
            ("mean square of the value", self.forward, self.mean("forward"), self.theory_forward),
            ("gradient, over that at the output", self.backward, self.mean("backward"), self.theory_backward),
        )
        for axes, (title, draws, mean, theory), colour in zip(figure.subplots(1, 2), panels, COLOURS, strict=False):
            for draw in draws if len(draws) > 1 else ():
                axes.plot(self.depths, draw, color=colour, alpha=0.25, linewidth=0.8)
            axes.plot(self.depths, mean, color=colour, linewidth=2, label="measured")
            known = [(d, t) for d, t in zip(self.depths, theory, strict=True) if t is not None]
            if known:
                axes.plot(*zip(*known, strict=True), color=GREYS[0], linestyle="--", label="theory of wide nets")
            axes.set(yscale="log", xlabel="layers with weights before the value", title=title)
            if max(mean) < 10 * min(mean) > 0:  # a line that is level should look it
                axes.set_ylim(min(mean) / 10, max(mean) * 10)
            axes.grid(alpha=0.3)
            axes.legend()
        if path is not None:
            figure.savefig(path, dpi=150)
        return figure


def signal(
    net: Chain | Callable[[], Chain],
    x: Tensor | None = None,
    *,
    seeds: int = 5,
    seed: int = 0,
    rows: int = 64,
    progress: bool = True,
) -> Signal:
    """Measure how large values and gradients are along a net as it is, and work out what theory expects.

    Parameters
    ----------
    net:
        a function that makes the chain: it is called for every seed, so that the scatter of its weights shows. Or a
        chain, which is measured with the weights it has, once.
    x:
        the input, ``(rows, *shape)``. By default ``rows`` rows of normal numbers, where the chain knows its input.
    seeds, seed, rows:
        how many draws of the net, the first of their seeds, and how many rows are drawn. Batch norm takes its moments
        from the rows: give it some hundreds.
    progress:
        False is silent, otherwise the cost is said first, and a terminal shows a bar.

    Returns
    -------
    A :class:`Signal`. Values are those of the trunk: where shortcuts start or end, and what layers with weights put out
    that no shortcut goes around. The gradient is that of the output times random numbers, so that no loss is needed;
    the net runs in train mode and in double precision, on a copy.

    Raises
    ------
    ChainError
        for what is no closed chain, or no ``x`` where the chain does not say what it takes.
    DataError, ShapeError
        for an ``x`` that does not fit, or is not finite.

    >>> from skipway import Dense, every, relu
    >>> def net():
    ...     layers = [layer for _ in range(50) for layer in (relu, Dense(64, 64, bias=False))]
    ...     return Chain(*layers, wiring=every(2, scale=0.1), input=64)
    >>> print(signal(net, seeds=2, progress=False).verdict())  # doctest: +ELLIPSIS
    Gradients keep their size: those at the input are 1... times those at the output. Mean squares keep their size: ...
    """
    whole("signal", "seeds", seeds)
    whole("signal", "rows", rows)
    given = isinstance(net, torch.nn.Module) or not callable(net)
    used = (seed,) if given else tuple(range(seed, seed + seeds))
    states = random_states(torch.device("cpu"))
    forward, backward, ends = [], [], []
    stations: list[Node] = []
    theory = Theory()
    cost = f"signal: {len(used)} {'passes' if len(used) > 1 else 'pass'} forward and back"
    try:
        with Bar(cost, len(used), progress) as bar:
            for s in used:
                torch.manual_seed(s)
                made = need_chain(net if given else net(), "signal")
                batch = torch.randn(rows, *input_shape(made, "signal")) if x is None else fit_input(made, x, "signal")
                walk = Walk(copy.deepcopy(made).double().train())
                batch = batch.double() if batch.is_floating_point() else batch
                if s == used[0]:
                    stations = trunk(walk.graph)
                    theory = MeanField(walk.graph, batch, gaussian=x is None).run()
                elif len(walk.graph.nodes) != len(theory.forward):
                    raise ChainError("signal: the function makes chains of different lengths, which cannot be compared")
                squares, norms = _measure(walk, batch)
                ends.append(norms)
                forward.append(tuple(squares[node.index] for node in stations))
                backward.append(tuple(norms[node.index] for node in stations))
                bar.step()
    finally:
        set_random_states(states, torch.device("cpu"))
    # where the theory stops before the end, it says how gradients grow from there on back
    anchor = _geometric([norms[theory.end] for norms in ends])
    return Signal(
        tuple(node.name for node in stations), _depths(walk.graph, stations), tuple(forward), tuple(backward),
        tuple(theory.forward[node.index] for node in stations),
        tuple(None if (law := theory.backward[node.index]) is None else anchor * law for node in stations),
        theory.stopped, used, len(batch),
    )  # fmt: skip


def input_shape(net: Chain, study: str) -> tuple[int, ...]:
    """The shape of an input without the batch axis. Raises ``ChainError`` where the chain does not say."""
    form = net.implied_input()
    known = net._form.shape or form.shape
    if known is None or any(not isinstance(size, int) for size in known):
        raise ChainError(
            f"{study}: this chain ({net.source}) does not say what it takes, {net._form}: give it input= when it is "
            f"built{', or give x' * (study == 'signal')}"
        )
    return tuple(size for size in known if size is not None)


def trunk(graph: Graph) -> list[Node]:
    """The values that lie on the trunk: the ends, where shortcuts start or end, and what layers with weights put out
    that no shortcut goes around."""
    spanned = [0] * (len(graph.nodes) + 1)
    for node in graph.nodes:
        for edge in node.edges:  # strictly between its ends
            spanned[edge.start + 1] += 1
            spanned[edge.end] -= 1
    found: list[Node] = []
    covered = 0
    for node in graph.nodes:
        covered += spanned[node.index]
        at_end = node.index in (0, len(graph.nodes) - 1)
        weighs = node.layer is not None and length_of(node.layer, "layers") > 0
        if node.opens is not None and not node.edges and found and found[-1].index == node.index - 1:
            found[-1] = node  # the same value, under the name of the chain that it ends
        elif at_end or node.edges or node.leaves or (not covered and weighs):
            found.append(node)
    return found


def _depths(graph: Graph, stations: Sequence[Node]) -> tuple[int, ...]:
    reached, count = [], 0
    for node in graph.nodes:
        count += 0 if node.layer is None else length_of(node.layer, "layers")
        reached.append(count)
    return tuple(reached[node.index] for node in stations)


def _measure(walk: Walk, x: Tensor) -> tuple[list[float], list[float]]:
    """The mean square of every value, and the norm of the gradient there over that at the output."""
    values: list[Tensor] = []

    def see(_: Node, value: Tensor) -> Tensor:
        value = value if value.requires_grad or not value.is_floating_point() else value.requires_grad_()
        values.append(value)
        return value

    with torch.enable_grad():
        output = walk(x.detach(), see=see)
        above = torch.randn_like(output)
        wanted = [value for value in values if value.requires_grad]
        found = iter(torch.autograd.grad(output, wanted, above, allow_unused=True))
    norms = []
    for value in values:
        gradient = next(found) if value.requires_grad else None
        norms.append(0.0 if gradient is None else float(gradient.norm() / above.norm()))
    return [float(value.detach().double().square().mean()) for value in values], norms


def _geometric(values: Sequence[float]) -> float:
    if any(math.isnan(value) for value in values):
        return math.nan
    return statistics.geometric_mean(values) if min(values) > 0 else 0.0


def _or_dash(value: float | None) -> str:
    return "-" if value is None else short(value)


def _law(what: str, way: str, depths: Sequence[int], sizes: Sequence[float], back: bool) -> str:
    """One sentence: what happens to sizes over depths, backward or forward."""
    if not all(math.isfinite(size) for size in sizes):
        return f"{what} are not finite {way}."
    if min(sizes) == 0:
        return f"{what} are zero somewhere {way}: nothing gets through."
    logs = [math.log(size) for size in sizes]
    change = logs[0] - logs[-1] if back else logs[-1] - logs[0]
    ends = ("those at the input are", "at the output") if back else ("those at the output are", "at the input")
    layers = depths[-1] - depths[0]
    compared = f"{ends[0]} {_times(math.exp(change))} times those {ends[1]}"
    if abs(change) < math.log(10):
        said = "keep their size" if abs(change) < math.log(_SAME) else "change less than tenfold"
        return f"{what} {said}: {compared}."
    if layers < _FEW:
        return f"{what} do not keep their size: {compared}, over {layers} layers, too few to tell a law."
    line, off_line = _fit(depths, logs)
    power, off_power = _fit([math.log1p(depth) for depth in depths], logs)
    if max(abs(line) * layers, abs(power) * math.log1p(layers)) < math.log(10):
        return f"{what} keep their size from layer to layer, but for some steps: {compared}."
    sign = -1 if back else 1
    if off_line <= off_power:
        rate = math.exp(sign * line)
        verb = "grow" if rate > 1 else "shrink"
        expected = f"expect 10^{round(sign * line * 100 / math.log(10))} at depth 100"
        return f"{what} {verb} {rate:.3g}x a layer {way}: {expected}."
    verb = "grow" if sign * power > 0 else "shrink"
    return f"{what} {verb} like depth^{sign * power:.2g} {way}: expect {_times(101 ** (sign * power))} at depth 100."


def _times(value: float) -> str:
    return f"{value:.0f}" if 10 <= value < 10_000 else short(value)


def _fit(xs: Sequence[float], ys: Sequence[float]) -> tuple[float, float]:
    """The slope of a line through points, and the mean square of what it leaves."""
    mx, my = statistics.mean(xs), statistics.mean(ys)
    slope = sum((a - mx) * (b - my) for a, b in zip(xs, ys, strict=True)) / sum((a - mx) ** 2 for a in xs)
    return slope, statistics.mean((b - my - slope * (a - mx)) ** 2 for a, b in zip(xs, ys, strict=True))


__all__ = ["Signal", "signal"]
