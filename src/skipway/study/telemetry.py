"""``gradient_flow``: gradients of all layers, what meets at every merge, and every learned gain, also over training."""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from skipway.chain import Chain
from skipway.errors import ChainError, DataError, TrainError
from skipway.gains import Stepped, undecayed
from skipway.graph import Edge, Node
from skipway.merges.gates import GateModule
from skipway.merges.weighted import WeightedSum
from skipway.study.flow import KINDS, Flow, Kind, Track
from skipway.study.given import Bar, device_of, task_of, whole
from skipway.study.kept import Kept, data_known, net_known
from skipway.study.walk import Walk, need_chain
from skipway.train.guard import seed_random, untouched
from skipway.train.losses import Loss, unwrap

if TYPE_CHECKING:
    from skipway.train import State


def gradient_flow(
    net: Chain, batch: Any, loss: str | Loss = "auto", *, seed: int = 0, progress: bool = True
) -> Flow:  # fmt: skip
    """Gradients, branches against trunks, and gains of a net as it stands, on one batch, in train mode.

    Parameters
    ----------
    net:
        a closed chain, left as it is: weights, their ``.grad``, statistics and random state.
    batch:
        ``(x, y)``, rows to take the loss over; all at once.
    loss, seed:
        as in :func:`skipway.fit`; the seed rules dropout and random drop.

    The same over training is a callback: :class:`GradientFlow`.

    Raises
    ------
    ChainError, OpenChainError, DataError, TrainError
        for what is no closed chain, or a batch that does not fit, is not finite or has one class.

    >>> from skipway import Dense, every, relu
    >>> net = Chain(Dense(4, 4, relu), Dense(4, 4, relu), wiring=every(1))
    >>> flow = gradient_flow(net, (torch.randn(8, 4), torch.arange(8) % 4), progress=False)
    >>> [(track.kind, track.name) for track in flow.tracks if track.place == 1]
    [('gradient', '0'), ('ratio', '0->1'), ('cosine', '0->1')]
    """
    need_chain(net, "gradient_flow")
    whole("gradient_flow", "seed", seed, 0)
    recorder = _Recorder(seed)
    with Bar("gradient_flow: one forward and one backward pass", 1, progress) as bar:
        recorder.probe(net, batch, loss, 0)
        bar.step()
    return recorder.flow()


class GradientFlow:
    """:func:`gradient_flow` while :func:`skipway.fit` trains: a callback, whose ``result`` is the :class:`Flow`.

    Parameters
    ----------
    every:
        steps between two looks; the first is at step 1. Each costs about a forward pass more.
    data, loss:
        rows ``(x, y)`` to look at, the same ones every time. By default those that are being trained on: gradients are
        then the ones that the step was made with, and what meets is looked at with the weights after it.
    seed:
        of dropout and random drop while it looks.
    run:
        a folder that keeps the looks in ``flow.json`` after every epoch, so that a training that is resumed goes on
        with those from before. Take that of the training: ``fit(..., run=..., resume=True)``.

    Training goes on as if it was not there, bit for bit, and nothing stays on the net.

    >>> from skipway import Dense, Skip, fit, relu
    >>> net = Chain(Dense(2, 4, relu), Skip(Dense(4, 4, relu)), Dense(4, 2))
    >>> watch = GradientFlow(every=2)
    >>> x = torch.randn(40, 2)
    >>> _ = fit(net, (x, (x[:, 0] > 0).long()), epochs=1, batch=4, lr=0.1, callbacks=[watch], progress=False)
    >>> watch.result.steps
    (1, 2, 4, 6, 8, 10)
    """

    def __init__(
        self, every: int = 10, data: Any = None, loss: str | Loss = "auto", seed: int = 0,
        run: str | Path | None = None,
    ) -> None:  # fmt: skip
        self.every = whole("GradientFlow", "every", every)
        self.data, self.loss, self.seed = data, loss, whole("GradientFlow", "seed", seed, 0)
        self.run = run
        self._recorder = _Recorder(seed)
        self._next = 0
        self._kept = Kept()
        self._net: weakref.ref[nn.Module] | None = None

    @property
    def result(self) -> Flow:
        """All that was measured so far. Raises ``ChainError`` before there is anything."""
        if not self._recorder.steps and self.run is not None:  # of a training that had ended before
            self._recorder.take(Kept.read(self.run, "flow").get("looks"), None)
        if not self._recorder.steps:
            raise ChainError("GradientFlow has measured nothing yet: give it to fit(..., callbacks=[...])")
        return self._recorder.flow()

    def on_step(self, state: State) -> None:
        """Called after every step of training."""
        net = unwrap(state.net)
        known = self._net is not None and self._net() is net
        if not known or (self._recorder.steps and state.step <= self._recorder.steps[-1]):
            self._begin(net, state.step)
        if state.step < self._next:
            return
        chain = need_chain(net, "GradientFlow")
        if self.data is not None:
            self._recorder.probe(chain, self.data, self.loss, state.step)
        elif isinstance(state.x, Tensor):
            self._recorder.look(chain, state.x, state.step)
        else:
            raise DataError(
                f"GradientFlow looks at batches that are one tensor, and these are {type(state.x).__name__}: give it "
                f"data=(x, y)"
            )
        self._next = (state.step // self.every + 1) * self.every

    def __call__(self, state: State) -> None:
        """Called after every epoch, before its checkpoint."""
        if self.run is not None and self._recorder.steps:
            self._kept.keep("looks", self._recorder.told())
            self._kept.flush()

    def _begin(self, net: nn.Module, step: int) -> None:
        """Another training, or one that goes on at a step."""
        chain = need_chain(net, "GradientFlow")
        self._net, self._recorder, self._next = weakref.ref(net), _Recorder(self.seed), 0
        if self.run is not None:
            options = {"every": self.every, "seed": self.seed}
            data = {} if self.data is None else data_known(data=self.data)
            nets = {"the net": net_known(chain, None)}
            self._kept = Kept.begin(self.run, "flow", options=options, data=data, nets=nets)
            self._recorder.take(self._kept.find("looks"), step)
            if self._recorder.steps:
                self._next = (self._recorder.steps[-1] // self.every + 1) * self.every


class _Recorder:
    """Numbers by kind and name, a list over the steps each."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.steps: list[int] = []
        self.rows = 0
        self.held: dict[tuple[Kind, str, str], tuple[int, bool, list[float | None]]] = {}

    def probe(self, net: Chain, batch: Any, loss: str | Loss, step: int) -> None:
        """Look at a batch: forward and backward."""
        pair = batch if isinstance(batch, (tuple, list)) else (getattr(batch, "x", None), getattr(batch, "y", None))
        rows = len(pair[0]) if len(pair) == 2 and isinstance(pair[0], Tensor) and pair[0].dim() else 1
        task, source = task_of(net, batch, loss, max(1, rows), "gradient_flow")
        x, y = next(iter(source))
        walk, parameters = Walk(net), [p for p in net.parameters() if p.requires_grad]
        with untouched(net, task.device, train=True), torch.enable_grad():
            seed_random(self.seed, task.device)
            value = task.loss(walk(x, meet=self._meet), y)
            if not value.requires_grad:
                raise TrainError(f"the loss {task.name} does not depend on any trainable parameter: is there a detach?")
            found = torch.autograd.grad(value, parameters, allow_unused=True)
        self._end(walk, dict(zip(parameters, found, strict=True)), step, len(x))

    def look(self, net: Chain, x: Tensor, step: int) -> None:
        """Look at a batch whose gradients are in the parameters: forward only."""
        walk, device = Walk(net), device_of(net)
        with untouched(net, device, train=True):
            seed_random(self.seed, device)
            walk(x, meet=self._meet)
        self._end(walk, {p: p.grad for p in net.parameters() if p.requires_grad}, step, len(x))

    def flow(self) -> Flow:
        kinds = list(KINDS)
        tracks = [Track(*key, place, own, tuple(values)) for key, (place, own, values) in self.held.items()]
        tracks.sort(key=lambda t: (t.place, t.of_shortcut, t.name, kinds.index(t.kind)))
        return Flow(tuple(self.steps), tuple(tracks), self.rows, self.seed)

    def told(self) -> dict[str, Any]:
        """All of it, as JSON has it."""
        held = [[*key, place, own, values] for key, (place, own, values) in self.held.items()]
        return {"steps": self.steps, "rows": self.rows, "held": held}

    def take(self, told: Any, before: int | None) -> None:
        """Go on from what was told, with the looks before a step."""
        if told is not None:
            count = sum(before is None or step < before for step in told["steps"])
            self.steps, self.rows = told["steps"][:count], told["rows"]
            for kind, name, part, place, own, values in told["held"] if count else ():
                self.held[kind, name, part] = (place, own, values[:count])

    def _add(self, kind: Kind, name: str, place: int, own: bool, value: float | None, part: str = "") -> None:
        known = self.held.setdefault((kind, name, part), (place, own, [None] * len(self.steps)))
        known[2].append(value)

    def _meet(
        self, node: Node, edges: Sequence[Edge], branch: Tensor, brought: list[Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        merge = edges[0].connection.merge
        with torch.no_grad():
            for edge, value in zip(edges, brought, strict=True):
                size = float(value.norm())
                self._add("ratio", edge.name, node.index, True, float(branch.norm()) / size if size else None)
                equal = branch.shape == value.shape
                cosine = nn.functional.cosine_similarity(branch.flatten(1), value.flatten(1)) if equal else None
                self._add("cosine", edge.name, node.index, True, None if cosine is None else float(cosine.mean()))
            if isinstance(merge, GateModule):
                gate = torch.sigmoid(merge.transform(brought[0]))
                # "shortcut" lets the whole branch through, and 1 - g of the shortcut
                self._add("gate", edges[0].name, node.index, True, float(gate.mean()))
            if isinstance(merge, WeightedSum):
                for edge, share in zip(edges, merge.shares()[1:].tolist(), strict=True):
                    self._add("gain", edge.name, node.index, True, share, "share")
        return branch, brought

    def _end(self, walk: Walk, gradients: dict[nn.Parameter, Tensor | None], step: int, rows: int) -> None:
        gains = {id(p) for _, p in undecayed(walk.net)}
        for name, place, own, module in _parts(walk):
            mine = [gradients.get(p) for p in module.parameters() if p in gradients]
            if mine:
                squares = sum(float(g.detach().norm()) ** 2 for g in mine if g is not None)
                self._add("gradient", name, place, own, math.sqrt(squares))
            for prefix, inner in module.named_modules():
                shares = isinstance(inner, WeightedSum)  # they say more than its parameters
                for key, p in () if shares else inner._parameters.items():
                    if p is not None and id(p) in gains:
                        gains.remove(id(p))
                        part = f"{prefix}.{key}" if prefix else key
                        self._add("gain", name, place, own, float(p.detach().mean()), part)
                value = getattr(inner, "value", None)
                if isinstance(inner, Stepped) and callable(value):
                    self._add("gain", name, place, own, float(value()), prefix)
        self.steps.append(step)
        self.rows = rows
        for _, _, values in self.held.values():
            values += [None] * (len(self.steps) - len(values))


def _parts(walk: Walk) -> Iterator[tuple[str, int, bool, nn.Module]]:
    """The layers and the shortcuts of a chain, with their place and whether it is a shortcut."""
    for node in walk.graph.nodes:
        if node.layer is not None:
            yield node.name, node.index, False, node.layer
        for edge in node.edges:
            yield edge.name, node.index, True, edge.connection


__all__ = ["GradientFlow", "gradient_flow"]
