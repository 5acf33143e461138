"""The plan: the graph of a chain with its shapes, made by a dry run, and every check with its error.

Making a plan also *closes* what can be closed: layers whose width was written ``...`` and the modules of shortcuts get
their parameters as soon as the shapes at their place are known. All problems are collected and raised together.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from .errors import ChainError, OpenChainError, ShapeError
from .functional import softmax
from .graph import Edge, Graph, Node
from .layer import Layer, module_code
from .meeting import Meeting, follow
from .merges import Cat, as_merge
from .probe import NotATensor, ProbeError, expected, implied, kept_layout, layout_of, resized, run, watch_training
from .spine import unwrap
from .value import UNKNOWN, Form, Value
from .words import describe_layer, explicit, report


class Plan(Graph):
    """The graph of one chain for one form of input.

    Parameters
    ----------
    chain:
        the chain.
    value:
        its input; unknown where nothing was said, and then what the first layer implies.
    close:
        create the parameters that are still missing where shapes allow.
    opened:
        nested chains to open besides those that shortcuts reach into.
    strict:
        count a layer that fails in the dry run as a problem; otherwise leave it to the real forward to say so.
    refit:
        make layers anew whose width was written ``...`` and turns out to be another: a nested chain closes by itself,
        and then the chain around it may widen what arrives there.
    remake:
        make shortcuts anew that no longer fit, where they are recipes: a layer was put in the place of another.
    watch:
        names of values to be told about in ``overwritten`` if a later layer changes them in place.

    Attributes
    ----------
    nodes:
        the values, from the input on; see :class:`~skipway.graph.Node`.
    problems:
        what cannot work, one text each.
    open:
        what is still missing, one text each; empty for a closed chain.
    complete:
        whether every shape was found, so that a forward on this form of input needs no further check.
    misfits:
        ``(chain, key)`` of layers written with ``...`` whose width is not the one that arrives.
    """

    def __init__(
        self,
        chain: Any,
        value: Value = UNKNOWN,
        *,
        close: bool = False,
        opened: Iterable[str] = (),
        strict: bool = True,
        refit: bool = False,
        remake: bool = False,
        watch: Iterable[str] = (),
    ) -> None:
        super().__init__(chain, opened, check=close)
        self.close, self.strict, self.refit, self.remake = close, strict, refit, remake
        self.structural = bool(self.problems)
        self.watch = {self.names[name] for name in watch}
        self.overwritten = set()
        self._cause: BaseException | None = None
        self.misfits: list[tuple[Any, str]] = []
        self.open: list[str] = []
        self.complete = True
        self._values: list[Value] = []
        self._arrivals: list[Value] = []
        self._versions: list[tuple[int, ...]] = []
        if not self.structural:
            self._infer(value)
        self._result = self._values[-1] if self._values else UNKNOWN
        # only shapes are kept: a plan that holds tensors would hold them on the chain
        del self._values, self._arrivals, self._versions

    # -- what it says --------------------------------------------------------------------------------------------------

    @property
    def input(self) -> Form:
        return self.nodes[0].form

    @property
    def output(self) -> Form:
        return self.nodes[-1].form

    @property
    def edges(self) -> list[Edge]:
        """All shortcuts, by where they end."""
        return [edge for node in self.nodes for edge in node.edges]

    def check(self) -> None:
        """Raise all problems as one error: a ``ShapeError`` where they are about shapes."""
        if self.problems:
            kind = ChainError if self.structural else ShapeError
            raise kind(report(self.problems, self.chain.source)) from self._cause

    @property
    def in_place(self) -> bool:
        """Whether some layer changes its input in place."""
        return any(node.mutates or getattr(node.sub, "in_place", False) for node in self.nodes)

    def take_result(self) -> Value:
        """The last value with its tensors, for the plan around this one; once."""
        result, self._result = self._result, UNKNOWN
        return result

    # -- the dry run ---------------------------------------------------------------------------------------------------

    def _infer(self, value: Value) -> None:
        # parameters made in inference mode could never be trained
        with torch.inference_mode(False):
            self._walk(value.form.value if any(t.is_inference() for t in value.trials) else value)

    def _walk(self, value: Value) -> None:
        layout = value.layout
        if value and layout is None and value.trials[0].dim() > 2:
            layout = self._layout_ahead()
        self._keep(self.nodes[0], Value(value.trials, layout), UNKNOWN)
        live: set[int] = {0} if self.nodes[0].leaves or 0 in self.watch else set()
        for node in self.nodes[1:]:
            arrival = self._layer(node, self._values[-1]) if node.layer is not None else self._values[-1]
            if live and self.close and node.layer is not None:
                watch_training(node.layer, self._values[-1])
            self._tapped_unchanged(node, live)
            result = arrival
            for edges in node.meetings:
                result = Meeting(self, edges, node).merge(result)
            self._keep(node, result, arrival)
            live = {i for i in live if i in self.watch or self.nodes[i].last_reader > node.index}
            if node.leaves or node.index in self.watch:
                live.add(node.index)
        self.complete = self.complete and all(self._values)
        for node, value, arrival in zip(self.nodes, self._values, self._arrivals, strict=True):
            node.form, node.arrival = value.form, arrival.form

    def _layout_ahead(self) -> Any:
        """The layout that the first layer which has one takes its input to be in."""
        for node in self.nodes[1:]:
            layout = layout_of(node.layer)
            if layout is not None or (isinstance(node.layer, nn.Module) and type(node.layer).__name__ == "Flatten"):
                return layout
        return None

    def _keep(self, node: Node, value: Value, arrival: Value) -> None:
        self._values.append(value)
        self._arrivals.append(arrival)
        self._versions.append(tuple(t._version for t in value.trials))

    def place(self, source: str) -> str:
        """Where something was written, unless it is where the chain was: the head of the report says that."""
        return f" ({source})" if source != self.chain.source else ""

    def _at(self, node: Node) -> str:
        return f"layer {node.name!r} = {describe_layer(node.layer)} ({node.source})"

    def _layer(self, node: Node, arriving: Value) -> Value:
        layer, before = node.layer, self.nodes[node.index - 1]
        assert layer is not None
        settle = getattr(layer, "_settle", None)
        if settle is not None:
            return self._composite(node, settle, arriving)
        if not arriving:
            arriving = self._imply(before, implied(layer))
        if isinstance(layer, Layer) and layer.is_open and not self._build(node, layer, arriving):
            return UNKNOWN
        hidden = None if isinstance(layer, Layer) else next((m for m in layer.modules() if is_open(m)), None)
        if hidden is not None:
            self.problems.append(
                f"{self._at(node)} holds {module_code(hidden)}, which cannot see there what arrives: write its width, "
                f"or use Chain(...) in the place of {type(layer).__name__}(...)"
            )
            return UNKNOWN
        asked = expected(layer)
        if arriving and asked is not None:
            arriving = self._fit(node, before, arriving, *asked)
        if unwrap(layer) is softmax and arriving.layout == "first" and len(arriving.form.shape or ()) > 1:
            self.problems.append(
                f"{self._at(node)} would go over the last axis of {arriving.form}, whose features are on axis 1: "
                f"write lambda x: softmax(x, axis=1), or Conv(..., softmax)"
            )
        versions = [t._version for t in arriving.trials]
        try:
            trials = run(layer, arriving)
        except NotATensor as error:
            self.problems.append(f"{self._at(node)} {error}")
            return UNKNOWN
        except ProbeError as error:
            self.complete = False
            if self.strict and len(arriving.trials) == 1:
                self.blame(error.cause)
                self.problems.append(f"{self._at(node)} cannot take {before.name!r} {arriving.form}: {error}")
            return UNKNOWN
        node.mutates = versions != [t._version for t in arriving.trials]
        layout = layout_of(layer)
        return Value(trials, layout or kept_layout(arriving, trials))

    def _composite(self, node: Node, settle: Any, arriving: Value) -> Value:
        """A nested chain or a Parallel: it plans itself."""
        versions = [t._version for t in arriving.trials]
        sub = settle(arriving, self.close, self.strict, self.refit)
        node.sub = sub
        if not arriving:
            self._imply(self.nodes[node.index - 1], sub.input.value)
        node.mutates = versions != [t._version for t in arriving.trials]
        self.problems += [f"in {node.name!r}: {p}" for p in sub.problems]
        self.open += [f"in {node.name!r}: {reason}" for reason in sub.open]
        self.complete = self.complete and sub.complete
        self.misfits += sub.misfits
        return sub.take_result()

    def tapped(self, edge: Edge) -> Value:
        """What a shortcut takes with it."""
        held = self._arrivals if edge.tap == "branch" else self._values
        return held[edge.start]

    def blame(self, cause: BaseException | None) -> None:
        """Remember what a user's code raised, to raise from it; the first of them."""
        self._cause = self._cause or cause

    def _imply(self, before: Node, value: Value) -> Value:
        """What a layer says of the value before it, where nothing else has."""
        if value:
            self._values[before.index] = value
            self._versions[before.index] = tuple(t._version for t in value.trials)
        return value

    def _build(self, node: Node, layer: Layer, arriving: Value) -> bool:
        before = self.nodes[node.index - 1]
        if not arriving or not self.close:
            self.open.append(f"{self._at(node)} waits for the width of {before.name!r}")
            return False
        kind = layout_of(layer)
        if kind is not None and arriving.layout not in (None, kind) and len(arriving.form.shape or ()) > 1:
            axis, fix = ("axis 1", "put LayerNorm, Dense or a transpose there instead")
            if kind == "last":
                axis, fix = ("the last axis", "put Flatten() or GlobalAvgPool() before it, or a Conv in its place")
            self.problems.append(
                f"{self._at(node)} takes its width from {axis}, and the features of {before.name!r} {arriving.form} "
                f"are on {'the last axis' if axis == 'axis 1' else 'axis 1'}: {fix}"
            )
            return False
        try:
            layer.build(arriving)
        except OpenChainError as error:
            self.open.append(f"{self._at(node)} {error}")
            return False
        except ChainError as error:
            self.problems.append(f"{self._at(node)} {error}")
            return False
        dtype = arriving.trials[0].dtype
        if dtype.is_floating_point:
            layer.to(dtype)  # type: ignore[attr-defined]
        layer.__dict__["_closed_by"] = self.chain._token
        follow(layer, self.chain)  # type: ignore[arg-type]
        return True

    def _fit(self, node: Node, before: Node, arriving: Value, axis: int, width: int) -> Value:
        """Check the width a layer asks for; goes on with the width it wanted, to find the other problems."""
        layer, shape = node.layer, arriving.form.shape
        missing = shape is None or len(shape) < max(-axis, axis + 1) or (axis < -1 and len(shape) != -axis)
        if missing:
            need = f"{width} channels and {-axis - 1} dimensions" if axis < -1 else f"{width} features"
            if shape is not None:
                self.problems.append(f"{self._at(node)} takes {need}, and gets {before.name!r} {arriving.form}")
            return implied(layer)
        assert shape is not None
        if shape[axis] == width:
            return arriving
        if shape[axis] is not None:
            if isinstance(layer, Layer) and layer.inferred:
                self.misfits.append((node.owner, node.key))
                # only what the nested chain closed by itself a moment ago: weights in use are never made anew
                fresh = layer.__dict__.get("_closed_by") == node.owner._token and not node.owner._used
                if self.refit and fresh and self._build(node, layer, arriving):
                    return arriving
            got, arg = shape[axis], explicit(layer, width)
            right = arg.replace(f"({width}", f"({got}", 1)
            dots = f" or {arg.replace(f'({width}', '(...', 1)}" if isinstance(layer, Layer) else ""
            what = "features" if axis == -1 else "channels"
            inferred = isinstance(layer, Layer) and layer.inferred
            fix = "build a new chain for this width, or give what this one was built for" if inferred else ""
            self.problems.append(
                f"{self._at(node)} takes {width} {what} and gets {got} from {before.name!r} {arriving.form}"
                f"{self._made_of(before)}: {fix or f'write {right}{dots}'}"
            )
        return resized(arriving, axis, width)

    def _made_of(self, node: Node) -> str:
        """Why a value is as wide as it is, where a shortcut widened it."""
        cats = [e for e in node.edges if isinstance(as_merge(e.shortcut.merge), Cat)]
        if not cats or not self._arrivals[node.index]:
            return ""
        parts = [f"{self._arrivals[node.index].width} of the branch"]
        parts += [
            f"{self._values[e.start].width} by the shortcut {e.shortcut.label!r}{self.place(e.shortcut.source)}"
            for e in cats
        ]
        return f", {' + '.join(parts)}"

    def _tapped_unchanged(self, node: Node, live: set[int]) -> None:
        for i in live:
            now = tuple(t._version for t in self._values[i].trials)
            if now == self._versions[i]:
                continue
            self._versions[i] = now
            if i in self.watch:
                self.overwritten.add(i)  # type: ignore[union-attr]
            readers = [e.name for e in self.nodes[i].leaves if e.end >= node.index]
            if readers:
                names = " and ".join(repr(r) for r in readers)
                self.problems.append(
                    f"{self._at(node)} changes its input in place, which would corrupt the value "
                    f"{self.nodes[i].name!r} that the shortcut {names} still brings: leave out inplace=True"
                )


def is_open(module: nn.Module) -> bool:
    return isinstance(module, Layer) and module.is_open
